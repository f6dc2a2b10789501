//! Starts an app container from the store: Occlum init and the createContainer hook of mode NONE.

//! The encrypted image store: sealing, image key, image record, chunked AEAD.

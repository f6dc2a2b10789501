//! Image references, by Docker's rules.

use std::fmt;

use oci_client::Reference;

use crate::{digest::Digest, error::Error};

/// A parsed reference: registry, repository, and a tag or digest. When it has both, the digest counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    reference: Reference,
    digest: Option<Digest>,
}

impl ImageRef {
    /// Parses a reference; `docker.io`, `library/` and `latest` are the defaults.
    ///
    /// # Errors
    /// [`Error::Reference`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        // The text goes to the log and back to the caller.
        const MAX_CHARS: usize = 1024;
        let refused =
            |reason: String| Error::Reference { reference: text.chars().take(200).collect(), reason };
        if text.len() > MAX_CHARS {
            return Err(refused(format!("longer than {MAX_CHARS} bytes")));
        }
        let reference = Reference::try_from(text).map_err(|error| refused(error.to_string()))?;
        // The library takes a capital in the first part for a host's and then finds no host.
        if reference.repository().bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refused("the repository has capital letters".to_owned()));
        }
        let digest = match reference.digest().map(str::parse::<Digest>) {
            None => None,
            Some(Ok(digest)) => Some(digest),
            Some(Err(error)) => return Err(refused(error.to_string())),
        };
        Ok(Self { reference, digest })
    }

    /// The name of the registry, `HOST[:PORT]`, as credentials and settings know it.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.reference.registry()
    }

    /// The host that serves the registry.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        match self.reference.registry() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        }
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.reference.repository()
    }

    /// The digest, when the reference has one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What to ask the registry for: the digest, or else the tag.
    #[must_use]
    pub fn object(&self) -> &str {
        match &self.digest {
            Some(digest) => digest.as_str(),
            None => self.reference.tag().unwrap_or("latest"),
        }
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reference.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_follow_dockers_rules() {
        let hex = "ab".repeat(32);
        let by_digest = format!("r.test:5000/a/b@sha256:{hex}");
        let both = format!("r.test:5000/a/b:1@sha256:{hex}");
        let digest = format!("sha256:{hex}");
        for (text, registry, repository, object) in [
            ("busybox", "docker.io", "library/busybox", "latest"),
            ("busybox:1.36", "docker.io", "library/busybox", "1.36"),
            ("team/app", "docker.io", "team/app", "latest"),
            ("index.docker.io/team/app", "docker.io", "team/app", "latest"),
            ("localhost/app", "localhost", "app", "latest"),
            ("127.0.0.1:5000/app:x", "127.0.0.1:5000", "app", "x"),
            ("registry.test/a/b/c:v1", "registry.test", "a/b/c", "v1"),
            (&by_digest, "r.test:5000", "a/b", &digest),
            (&both, "r.test:5000", "a/b", &digest),
        ] {
            let image = ImageRef::parse(text).unwrap();
            assert_eq!(
                (image.registry(), image.repository(), image.object()),
                (registry, repository, object),
                "{text}"
            );
        }
        assert_eq!(ImageRef::parse("busybox").unwrap().endpoint(), "registry-1.docker.io");
    }

    #[test]
    fn bad_references_are_refused() {
        let upper = format!("a@sha256:{}", "AB".repeat(32));
        let long = "a".repeat(2000);
        for text in
            ["", "UPPER/case:1", "a b", "a:", "a@sha256:12", "../a", "a//b", "http://r.test/a", &upper, &long]
        {
            assert!(matches!(ImageRef::parse(text), Err(Error::Reference { .. })), "{text}");
        }
    }
}

//! Credentials for registries and the answer to a `WWW-Authenticate` challenge.

use std::{collections::BTreeMap, fmt, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_auth::ChallengeParser;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    config::{ConfigError, json},
    error::Error,
};

/// User and password. Not printable.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// Parses `USER[:PASSWORD]`; None for the empty text.
    ///
    /// # Errors
    /// [`Error::SourceCredentials`] when there is no user.
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        if text.is_empty() {
            return Ok(None);
        }
        Self::split(text).map(Some).ok_or(Error::SourceCredentials)
    }

    fn split(text: &str) -> Option<Self> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        (!user.is_empty())
            .then(|| Self { user: user.to_owned(), password: Zeroizing::new(password.to_owned()) })
    }

    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> Zeroizing<String> {
        let pair = Zeroizing::new(format!("{}:{}", self.user, self.password.as_str()));
        Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
    }
}

/// Credentials by registry, or by registry and the beginning of the repository.
#[derive(Debug, Clone, Default)]
pub struct AuthFile(BTreeMap<String, Credentials>);

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
    #[serde(default, rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct DockerAuth {
    auth: Option<Zeroizing<String>>,
    username: Option<String>,
    password: Option<Zeroizing<String>>,
    identitytoken: Option<Zeroizing<String>>,
}

impl AuthFile {
    /// Reads docker's config.json. Credential helpers are programs of the host, so they are not run.
    ///
    /// # Errors
    /// [`ConfigError`] with the file's name; it never holds a credential.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let config: DockerConfig = json(path)?;
        if config.creds_store.is_some() || !config.cred_helpers.is_empty() {
            tracing::warn!(file = %path.display(), "credential helpers are not supported and ignored");
        }
        let mut auths = BTreeMap::new();
        for (name, auth) in config.auths {
            if auth.identitytoken.is_some() {
                tracing::warn!(file = %path.display(), registry = ?name, "an identity token is not supported and ignored");
            }
            let credentials = match (auth.auth, auth.username) {
                (Some(encoded), _) if !encoded.is_empty() => STANDARD
                    .decode(encoded.as_bytes())
                    .ok()
                    .and_then(|pair| String::from_utf8(pair).ok().map(Zeroizing::new))
                    .and_then(|pair| Credentials::split(&pair))
                    .ok_or_else(|| ConfigError::Value {
                        path: path.to_owned(),
                        reason: format!("auths.{name:?}.auth is not base64 of USER:PASSWORD"),
                    })?,
                (_, Some(user)) => Credentials { user, password: auth.password.unwrap_or_default() },
                // Docker writes an empty object where a helper has the credentials.
                _ => continue,
            };
            auths.insert(normal(&name), credentials);
        }
        Ok(Self(auths))
    }

    /// The credentials for a repository: the most specific entry wins.
    #[must_use]
    pub fn find(&self, registry: &str, repository: &str) -> Option<&Credentials> {
        let full = format!("{registry}/{repository}");
        let mut name = full.as_str();
        loop {
            if let Some(credentials) = self.0.get(name) {
                return Some(credentials);
            }
            name = name.rsplit_once('/')?.0;
        }
    }
}

/// `https://index.docker.io/v1/` → `docker.io`, `https://r.test:5000/v2/` → `r.test:5000`.
fn normal(name: &str) -> String {
    let bare = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://"));
    // A URL's path is that of the API, a plain name's path that of a repository.
    let name = match bare {
        Some(bare) => bare.split('/').next().unwrap_or(bare),
        None => name.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2"),
    };
    match name {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token from here.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The first challenge that can be met; bearer before basic.
    pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers {
            for challenge in ChallengeParser::new(header).filter_map(Result::ok) {
                let param = |wanted: &str| {
                    let (_, value) =
                        challenge.params.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
                    Some(value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                } else if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = param("realm")
                {
                    return Some(Self::Bearer { realm, service: param("service"), scope: param("scope") });
                }
            }
        }
        basic
    }
}

/// A token server's answer.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    token: Option<Zeroizing<String>>,
    access_token: Option<Zeroizing<String>>,
}

impl TokenAnswer {
    pub(super) fn token(self) -> Option<Zeroizing<String>> {
        self.token.or(self.access_token).filter(|token| !token.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn auth_file(content: &str) -> Result<AuthFile, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        AuthFile::read(file.path())
    }

    fn user(auths: &AuthFile, registry: &str, repository: &str) -> Option<String> {
        auths.find(registry, repository).map(|c| format!("{}:{}", c.user, c.password.as_str()))
    }

    #[test]
    fn docker_config_entries_are_found_by_registry_and_repository() {
        let hub = STANDARD.encode("hub:p:w");
        let auths = auth_file(&format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{hub}"}},
               "r.test:5000":{{"username":"u","password":"p"}},"r.test:5000/team":{{"username":"t"}},"helper.test":{{}}}},
               "credsStore":"desktop","HttpHeaders":{{}}}}"#
        ))
        .unwrap();
        assert_eq!(user(&auths, "docker.io", "library/a").unwrap(), "hub:p:w");
        assert_eq!(user(&auths, "r.test:5000", "a").unwrap(), "u:p");
        assert_eq!(user(&auths, "r.test:5000", "team/a").unwrap(), "t:");
        assert_eq!(user(&auths, "r.test:5000", "teamwork/a").unwrap(), "u:p");
        assert_eq!(user(&auths, "r.test", "a"), None);
        assert_eq!(user(&auths, "helper.test", "a"), None);
    }

    #[test]
    fn a_damaged_entry_is_an_error_without_the_credential() {
        let error = auth_file(r#"{"auths":{"r.test":{"auth":"c2VjcmV0!"}}}"#).unwrap_err();
        assert!(error.to_string().contains("r.test") && !error.to_string().contains("c2VjcmV0"), "{error}");
    }

    #[test]
    fn call_credentials_are_user_and_optional_password() {
        assert_eq!(Credentials::parse("").unwrap(), None);
        let both = Credentials::parse("u:p:q").unwrap().unwrap();
        assert_eq!((both.user.as_str(), both.password.as_str()), ("u", "p:q"));
        assert_eq!(Credentials::parse("u").unwrap().unwrap().password.as_str(), "");
        assert!(matches!(Credentials::parse(":p"), Err(Error::SourceCredentials)));
        assert_eq!(format!("{both:?}"), "Credentials(..)");
        assert_eq!(*both.basic(), format!("Basic {}", STANDARD.encode("u:p:q")));
    }

    #[test]
    fn bearer_is_chosen_before_basic() {
        let bearer = r#"Bearer realm="https://auth.test/token",service="r.test",scope="repository:a:pull""#;
        let chosen = Challenge::choose([r#"Basic realm="x""#, bearer].into_iter());
        assert_eq!(
            chosen,
            Some(Challenge::Bearer {
                realm: "https://auth.test/token".to_owned(),
                service: Some("r.test".to_owned()),
                scope: Some("repository:a:pull".to_owned()),
            })
        );
        assert_eq!(Challenge::choose([r#"Basic realm="x""#].into_iter()), Some(Challenge::Basic));
        assert_eq!(Challenge::choose(["Negotiate"].into_iter()), None);
        assert_eq!(Challenge::choose([""].into_iter()), None);
    }
}

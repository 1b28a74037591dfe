//! What links share: files of certificates and keys, and secrets that a file may hold.

use std::path::{Path, PathBuf};

use super::reader::Reader;
use super::secret::{Secret, SecretSource};
use crate::tls::{self, IdentityFiles, TlsFiles};

impl Reader {
    /// The files of a link with TLS, each checked.
    pub(super) fn tls_files(
        &mut self,
        ca: &'static str,
        certificate: &'static str,
        key: &'static str,
    ) -> TlsFiles {
        let expected = "a file with certificates of authorities in PEM";
        let ca = self.checked(ca, expected, |raw| of_file(raw, tls::check_ca));
        TlsFiles {
            ca,
            identity: self.identity(certificate, key),
        }
    }

    /// A certificate and its key.
    pub(super) fn identity(
        &mut self,
        certificate: &'static str,
        key: &'static str,
    ) -> Option<IdentityFiles> {
        let has_both = self.is_given(certificate) && self.is_given(key);
        let expected = "a file with a valid certificate and its chain in PEM";
        let file = self.checked(certificate, expected, |raw| {
            of_file(raw, tls::check_certificate)
        });
        let of_certificate = file.clone().unwrap_or_default();
        let expected = format!("a file with the private key of {certificate} in PEM");
        let identity = self.checked(key, &expected, |raw| {
            let files = IdentityFiles {
                certificate: of_certificate.clone(),
                key: PathBuf::from(raw),
            };
            tls::check_key(&files).map(|()| files)
        });
        if !has_both && file.is_some() {
            self.refuse(certificate, &format!("expected {key}, too"));
        } else if !has_both && identity.is_some() {
            self.refuse(key, &format!("expected {certificate}, too"));
        }
        file.and(identity)
    }

    /// A secret; its file is read again when it is needed.
    pub(super) fn secret(&mut self, env: &'static str) -> Option<SecretSource> {
        let given = self.checked(env, "some text", |raw| Ok(raw.to_owned()))?;
        Some(match self.file_of(env) {
            Some(file) => SecretSource::File(file),
            None => SecretSource::Given(Secret::new(given)),
        })
    }

    /// The same of a setting that may also name the file by itself.
    pub(super) fn secret_or_file(
        &mut self,
        env: &'static str,
        expected: &str,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<SecretSource> {
        let file = self.file_of(env);
        self.checked(env, expected, |raw| {
            let source = match &file {
                Some(file) => SecretSource::File(file.clone()),
                None if is_path(raw) => SecretSource::File(PathBuf::from(raw)),
                None => SecretSource::Given(Secret::new(raw.to_owned())),
            };
            check(&source.read()?).map(|()| source)
        })
    }
}

fn of_file(raw: &str, check: impl Fn(&Path) -> Result<(), String>) -> Result<PathBuf, String> {
    let file = PathBuf::from(raw);
    check(&file).map(|()| file)
}

/// Whether it is the name of a file rather than a seed, or the text of a file.
pub(super) fn is_path(raw: &str) -> bool {
    Path::new(raw).is_file() || raw.contains('/') && !raw.contains(char::is_whitespace)
}

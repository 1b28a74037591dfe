//! Authorities and certificates that a test makes for itself.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// An authority that signs what a test asks for. Its files go with it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Signed {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Signed {
    /// The file of the certificate, as the value of a setting.
    pub fn certificate(&self) -> &str {
        text(&self.certificate)
    }

    /// That of the key.
    pub fn key(&self) -> &str {
        text(&self.key)
    }
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    Today,
    /// Until 2020.
    Once,
}

impl Authority {
    /// A new one, which nobody else trusts.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            // OpenSSL looks for an authority by its name.
            .push(
                DnType::CommonName,
                format!("authority {:x}", rand::random::<u64>()),
            );
        let folder = tempfile::Builder::new()
            .prefix("ganesh-test-")
            .tempdir()
            .unwrap();
        // Servers that run as another user read them, too.
        open_to_all(folder.path(), 0o755);
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    /// The file with its certificate.
    pub fn ca(&self) -> String {
        text(&self.folder.path().join("ca.pem")).to_owned()
    }

    /// A certificate for a server with these names, or for a client that is named so.
    pub fn sign(&self, name: &str, hosts: &[&str], valid: Valid) -> Signed {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if valid == Valid::Once {
            params.not_before = date_time_ymd(2019, 1, 1);
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        let signed = Signed {
            certificate: file("pem"),
            key: file("key"),
        };
        std::fs::write(&signed.certificate, certificate.pem()).unwrap();
        std::fs::write(&signed.key, key.serialize_pem()).unwrap();
        signed
    }

    /// A certificate for the servers of tests, which listen on 127.0.0.1.
    pub fn server(&self, name: &str) -> Signed {
        self.sign(name, &["127.0.0.1"], Valid::Today)
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str) -> Signed {
        self.sign(name, &[], Valid::Today)
    }

    /// Writes a file beside the certificates.
    pub fn write(&self, name: &str, contents: &str) -> String {
        let file = self.folder.path().join(name);
        std::fs::write(&file, contents).unwrap();
        text(&file).to_owned()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn open_to_all(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

//! What is made, kept and refused.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn renew() -> Options {
    Options { renew: true, ..Options::default() }
}

#[test]
fn six_files_for_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("a/b");
    let certs = init(&inside, &Options::default()).unwrap();
    let names: Vec<String> = contents(&inside).into_keys().collect();
    let all = ["ca.crt", "ca.key", "client.crt", "client.key", "server.crt", "server.key"];
    assert_eq!(names, all);
    assert_eq!(certs.written.len(), 6);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for name in all {
        assert_eq!(mode(&inside.join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&inside), 0o700);
    // The directory that it is in is an ordinary one.
    let ordinary = directory.path().join("c");
    fs::create_dir(&ordinary).unwrap();
    assert_eq!(mode(inside.parent().unwrap()), mode(&ordinary));
    for files in [&certs.ca, &certs.server, &certs.client] {
        files.read().unwrap();
    }
    let key = KeyPair::from_pem(&fs::read_to_string(&certs.server.key).unwrap()).unwrap();
    assert!(key.is_compatible(&PKCS_RSA_SHA256), "the server's key is RSA");
}

#[test]
fn what_is_there_is_kept_until_renewal_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    init(path, &Options::default()).unwrap();
    let first = contents(path);

    let again = init(path, &Options::default()).unwrap();
    assert_eq!(contents(path), first);
    assert_eq!(again.written, Vec::<PathBuf>::new());

    let renewed = init(path, &renew()).unwrap();
    let second = contents(path);
    for (name, old) in &first {
        assert_eq!(&second[name] == old, name.starts_with("ca."), "{name}");
    }
    assert_eq!(renewed.written.len(), 4);

    // A missing pair is made, and nothing else.
    fs::remove_file(&renewed.client.certificate).unwrap();
    fs::remove_file(&renewed.client.key).unwrap();
    let completed = init(path, &Options::default()).unwrap();
    assert_eq!(completed.written, [renewed.client.key, renewed.client.certificate]);
    assert_eq!(contents(path)["server.crt"], second["server.crt"]);
}

#[test]
fn half_a_pair_is_refused_and_nothing_is_written() {
    for missing in ["ca.key", "ca.crt", "server.key", "client.crt"] {
        let directory = tempfile::tempdir().unwrap();
        init(directory.path(), &Options::default()).unwrap();
        fs::remove_file(directory.path().join(missing)).unwrap();
        let before = contents(directory.path());
        let error = init(directory.path(), &renew()).unwrap_err();
        assert!(
            matches!(&error, CertsError::Half { missing: file, .. } if file.ends_with(missing))
        );
        assert_eq!(contents(directory.path()), before);
    }
}

#[test]
fn a_ca_that_others_would_not_take_signs_nothing() {
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let stranger = KeyPair::generate().unwrap();
    let stranger_certificate =
        params("Somebody else", CA_LIFE).self_signed(&stranger).unwrap().pem();
    let table: [(&str, &str, &str); 4] = [
        ("ca.key", &other_key, "cannot sign certificates here"),
        ("ca.crt", &stranger_certificate, "cannot sign certificates here"),
        ("ca.crt", "nothing", "it has no certificate in PEM"),
        ("ca.key", "nothing", "cannot use"),
    ];
    for (file, text, wanted) in table {
        let directory = tempfile::tempdir().unwrap();
        init(directory.path(), &Options::default()).unwrap();
        fs::write(directory.path().join(file), text).unwrap();
        let before = contents(directory.path());
        let error = init(directory.path(), &renew()).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains(file.trim_end_matches(".key")), "{error}");
        assert_eq!(contents(directory.path()), before);
    }
}

#[test]
fn names_that_no_server_has_are_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["", "a b", "zwölf", "a/b", "a\n"] {
        let options = Options { names: vec![name.to_owned()], ..Options::default() };
        let error = init(directory.path(), &options).unwrap_err();
        assert!(matches!(error, CertsError::Name(wrong) if wrong == name));
    }
    assert_eq!(contents(directory.path()), BTreeMap::new());
    let long = Options { names: vec![format!("{}.example", "a".repeat(60))], ..Options::default() };
    init(directory.path(), &long).unwrap();
}

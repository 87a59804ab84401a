//! The pure rules: which certificates and signatures are believed, and by which rule the others fail.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;

use super::super::reason::Reason;
use super::super::signer::Pin;
use super::authority::*;

#[test]
fn good_certificates_are_believed_in_every_form() {
    let root = Authority::root("Root");
    let issuing = root.below("Issuing CA");
    let second = issuing.below("Second Issuing CA");
    let leaf = issuing.leaf(&FIRST);
    let deep = second.leaf(&FIRST);
    let trust = || trust(&[&root]);
    assert_eq!(judge(&root.leaf(&FIRST), &[], trust()), Ok(()), "directly below the root");
    assert_eq!(judge(&leaf, &[&issuing.der], trust()), Ok(()), "DER");
    assert_eq!(judge(&pem(&leaf), &[&issuing.der], trust()), Ok(()), "PEM");
    assert_eq!(
        judge(&[b"\xef\xbb\xbf".to_vec(), pem(&leaf)].concat(), &[&issuing.der], trust()),
        Ok(()),
        "with a mark"
    );
    assert_eq!(
        judge(&[b"Certificate:\n  Data:\n".to_vec(), pem(&leaf)].concat(), &[&issuing.der], trust()),
        Ok(()),
        "words before it"
    );
    assert_eq!(judge(STANDARD.encode(&leaf).as_bytes(), &[&issuing.der], trust()), Ok(()), "base64");
    let lines: String = STANDARD
        .encode(&leaf)
        .as_bytes()
        .chunks(76)
        .map(|line| format!("{}\r\n", String::from_utf8_lossy(line)))
        .collect();
    assert_eq!(judge(lines.as_bytes(), &[&issuing.der], trust()), Ok(()), "base64 in lines");
    assert_eq!(judge(&[pem(&leaf), pem(&issuing.der)].concat(), &[], trust()), Ok(()), "PEM with its chain");
    assert_eq!(judge(&deep, &[&second.der, &issuing.der, &root.der], trust()), Ok(()), "two intermediates");
    // Subject, name and anchors bind it; what it may be used for elsewhere says nothing (partner-center §3.4).
    let own_purpose = ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 99]);
    let code =
        root.below_with("Code CA", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    assert_eq!(judge(&code.leaf(&FIRST), &[&code.der], trust()), Ok(()), "an intermediate for code");
    for (name, leaf) in [
        ("no purposes", root.odd_leaf(|params| params.extended_key_usages.clear())),
        (
            "for clients only",
            root.odd_leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ),
        ("for code", root.odd_leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning])),
        ("a purpose of its own", root.odd_leaf(|params| params.extended_key_usages = vec![own_purpose.clone()])),
        ("no key usage", root.odd_leaf(|params| params.key_usages.clear())),
        ("no alternative name", root.odd_leaf(|params| params.subject_alt_names.clear())),
        (
            "name in capitals",
            root.odd_leaf(|params| {
                params.subject_alt_names.clear();
                params.distinguished_name = subject(&[
                    (DnType::OrganizationName, "Microsoft Corporation"),
                    (DnType::CommonName, &NAME.to_uppercase()),
                ]);
            }),
        ),
        (
            "only an alternative name",
            root.odd_leaf(|params| {
                params.distinguished_name = subject(&[(DnType::OrganizationName, "Microsoft Corporation")]);
            }),
        ),
    ] {
        assert_eq!(judge(&leaf, &[], trust()), Ok(()), "{name}");
    }
}

/// What it is called, the leaf, its intermediates, and the rule it breaks.
type Case<'a> = (&'a str, Vec<u8>, Vec<&'a [u8]>, Reason);

#[test]
fn certificates_that_are_not_in_order_fail_by_the_rule_they_break() {
    let (root, other) = (Authority::root("Root"), Authority::root("Root"));
    let issuing = root.below("Issuing CA");
    let no_authority = root.below_with("Not a CA", |params| params.is_ca = IsCa::ExplicitNoCa);
    let short = root.below_with("Short", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let expired = root.below_with("Expired CA", |params| params.not_after = date_time_ymd(2026, 1, 2));
    let too_deep = short.below("Too deep");
    let microsoft = || (DnType::OrganizationName, "Microsoft Corporation");
    let name = || (DnType::CommonName, NAME);
    let second_organization = || DnType::CustomDnType(vec![2, 5, 4, 10]);
    let with_subject = |parts: &[(DnType, &str)]| root.odd_leaf(|params| params.distinguished_name = subject(parts));
    let named = |text: &str| {
        root.odd_leaf(|params| {
            params.distinguished_name = subject(&[microsoft(), (DnType::CommonName, text)]);
            params.subject_alt_names.clear();
        })
    };
    let elliptic = KeyPair::generate().expect("a key");
    let no_chain: &[&[u8]] = &[];
    let cases: Vec<Case<'_>> = vec![
        ("another root of the same name", other.leaf(&FIRST), vec![], Reason::ChainRefused),
        ("another root that comes along", other.leaf(&FIRST), vec![&other.der], Reason::ChainRefused),
        ("the intermediate is missing", issuing.leaf(&FIRST), no_chain.to_vec(), Reason::IssuerUnknown),
        ("self-signed with the same names", self_signed(&FIRST), vec![], Reason::IssuerUnknown),
        ("issued by a leaf", no_authority.leaf(&FIRST), vec![&no_authority.der], Reason::ChainRefused),
        ("a path that is too long", too_deep.leaf(&FIRST), vec![&too_deep.der, &short.der], Reason::ChainRefused),
        ("an expired intermediate", expired.leaf(&FIRST), vec![&expired.der], Reason::CertificateExpired),
        (
            "expired",
            root.odd_leaf(|params| params.not_after = date_time_ymd(2026, 11, 20)),
            vec![],
            Reason::CertificateExpired,
        ),
        (
            "of the future",
            root.odd_leaf(|params| params.not_before = date_time_ymd(2026, 11, 21)),
            vec![],
            Reason::CertificateNotYetValid,
        ),
        (
            "an authority as a leaf",
            root.odd_leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            vec![],
            Reason::ChainRefused,
        ),
        (
            "a key for encryption",
            root.odd_leaf(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            vec![],
            Reason::KeyUsageRefused,
        ),
        (
            "another organization",
            with_subject(&[(DnType::OrganizationName, "Evil Corp"), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        (
            "a longer organization",
            with_subject(&[(DnType::OrganizationName, "Microsoft Corporation Ltd"), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        (
            "another case",
            with_subject(&[(DnType::OrganizationName, "MICROSOFT CORPORATION"), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        (
            "a blank more",
            with_subject(&[(DnType::OrganizationName, "Microsoft Corporation "), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        (
            "a NUL more",
            with_subject(&[(DnType::OrganizationName, "Microsoft Corporation\0"), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        (
            "letters that only look the same",
            with_subject(&[(DnType::OrganizationName, "Microsоft Corporation"), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        ("no organization", with_subject(&[name()]), vec![], Reason::OrganizationRefused),
        (
            "the organization in the common name",
            with_subject(&[(DnType::CommonName, "O=Microsoft Corporation, CN=pcnotifications-dispatch.microsoft.com")]),
            vec![],
            Reason::OrganizationRefused,
        ),
        (
            "the organization as a unit",
            with_subject(&[(DnType::OrganizationalUnitName, "Microsoft Corporation"), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        (
            "two organizations",
            with_subject(&[microsoft(), (second_organization(), "Evil Corp"), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        (
            "two organizations, the other way round",
            with_subject(&[(second_organization(), "Evil Corp"), microsoft(), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        (
            "the organization twice",
            with_subject(&[microsoft(), (second_organization(), "Microsoft Corporation"), name()]),
            vec![],
            Reason::OrganizationRefused,
        ),
        ("another name", named("login.microsoftonline.com"), vec![], Reason::NameRefused),
        ("a name around it", named("pcnotifications-dispatch.microsoft.com.evil.example"), vec![], Reason::NameRefused),
        ("a name before it", named("xpcnotifications-dispatch.microsoft.com"), vec![], Reason::NameRefused),
        ("a wildcard", named("*.microsoft.com"), vec![], Reason::NameRefused),
        (
            "a NUL in the name",
            named("pcnotifications-dispatch.microsoft.com\0.evil.example"),
            vec![],
            Reason::NameRefused,
        ),
        (
            "no name",
            root.odd_leaf(|params| {
                params.distinguished_name = subject(&[microsoft()]);
                params.subject_alt_names.clear();
            }),
            vec![],
            Reason::NameRefused,
        ),
        ("an elliptic key", root.leaf_with(&elliptic, |_| {}), vec![], Reason::KeyRefused),
        ("a key of 1024 bits", root.leaf_with(&Weak::new(), |_| {}), vec![], Reason::KeyTooShort),
        (
            "a critical extension nobody knows",
            root.odd_leaf(|params| {
                let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
                extension.set_criticality(true);
                params.custom_extensions.push(extension);
            }),
            vec![],
            Reason::ChainRefused,
        ),
        ("the root itself", root.der.clone(), vec![], Reason::KeyUsageRefused),
        ("nothing", vec![], vec![], Reason::CertificateUnreadable),
        ("a web page", b"<html>not found</html>".to_vec(), vec![], Reason::CertificateUnreadable),
        ("half a certificate", root.leaf(&FIRST)[..400].to_vec(), vec![], Reason::CertificateUnreadable),
        ("a byte more", [root.leaf(&FIRST), vec![0]].concat(), vec![], Reason::CertificateUnreadable),
        (
            "a private key",
            include_bytes!("../../../sim/webhook/first.key.pem").to_vec(),
            vec![],
            Reason::CertificateUnreadable,
        ),
        ("PEM without an end", pem(&root.leaf(&FIRST))[..500].to_vec(), vec![], Reason::CertificateUnreadable),
    ];
    for (name, leaf, intermediates, expected) in &cases {
        assert_eq!(judge(leaf, intermediates, trust(&[&root])), Err(*expected), "{name}");
    }
    println!("{} certificates refused", cases.len());
}

#[test]
fn with_pinned_keys_only_these_are_believed() {
    let root = Authority::root("Root");
    let (first, second) = (root.leaf(&FIRST), root.leaf(&SECOND));
    let pin = |pem: &[u8]| {
        let key = rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(pem).expect("a public key");
        Pin::parse(&STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, &key))).expect("a pin")
    };
    let (one, other) = (pin(FIRST.public_pem().as_bytes()), pin(SECOND.public_pem().as_bytes()));
    let pinned = |pins: &[Pin]| trust(&[&root]).pinned(pins.to_vec());
    let judge_second = |trust| judge_body(&second, &[], trust, &SECOND.sign(BODY), BODY);
    assert_eq!(judge(&first, &[], pinned(&[one])), Ok(()));
    assert_eq!(judge_second(pinned(&[one])), Err(Reason::KeyNotPinned), "chained to a trusted root all the same");
    assert_eq!(judge_second(pinned(&[one, other])), Ok(()), "the key that comes after a renewal");
    assert_eq!(judge_second(pinned(&[])), Ok(()), "none is pinned");
    assert_eq!(judge(&self_signed(&FIRST), &[], pinned(&[one])), Err(Reason::IssuerUnknown), "a pin replaces no rule");
    for text in ["", "AAAA", "sha256/AAAA", &"A".repeat(44)] {
        assert_eq!(Pin::parse(text), None, "{text}");
    }
}

#[test]
fn the_first_certificate_of_a_text_is_the_one_that_signs() {
    let root = Authority::root("Root");
    let forged = [pem(&self_signed(&SECOND)), pem(&root.leaf(&FIRST))].concat();
    assert_eq!(judge_body(&forged, &[], trust(&[&root]), &SECOND.sign(BODY), BODY), Err(Reason::ChainRefused));
    let true_first = [pem(&root.leaf(&FIRST)), pem(&self_signed(&SECOND))].concat();
    assert_eq!(judge_body(&true_first, &[], trust(&[&root]), &SECOND.sign(BODY), BODY), Err(Reason::SignatureWrong));
}

#[test]
fn signatures_that_do_not_fit_are_refused() {
    let root = Authority::root("Root");
    let leaf = root.leaf(&FIRST);
    let judge = |signature: &[u8], body: &[u8]| judge_body(&leaf, &[], trust(&[&root]), signature, body);
    let good = FIRST.sign(BODY);
    assert_eq!(judge(&good, BODY), Ok(()));
    let other_body = [BODY, b" "].concat();
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    for (name, signature, body) in [
        ("another body", good.clone(), other_body.as_slice()),
        ("an empty body", good.clone(), b"".as_slice()),
        ("a cut body", good.clone(), &BODY[..BODY.len() - 1]),
        ("a flipped bit", flipped, BODY),
        ("another key", SECOND.sign(BODY), BODY),
        ("another hash", FIRST.sign_sha512(BODY), BODY),
        ("another padding", FIRST.sign_pss(BODY), BODY),
        ("zeros", vec![0; 256], BODY),
        ("ones", vec![0xff; 256], BODY),
        ("the number one", [vec![0; 255], vec![1]].concat(), BODY),
    ] {
        assert_eq!(judge(&signature, body), Err(Reason::SignatureWrong), "{name}");
    }
    for length in [257, 384, 512, 1024] {
        assert_eq!(judge(&vec![7; length], BODY), Err(Reason::SignatureLength), "{length}");
    }
    assert_eq!(judge(&[vec![0], good].concat(), BODY), Err(Reason::SignatureLength), "a leading zero");
}

#[test]
fn a_body_is_judged_by_its_bytes_and_not_by_its_meaning() {
    let root = Authority::root("Root");
    let leaf = root.leaf(&FIRST);
    for body in [&b"\xef\xbb\xbf{}"[..], b"\xff\xfe", b"", b"not json"] {
        assert_eq!(judge_body(&leaf, &[], trust(&[&root]), &FIRST.sign(body), body), Ok(()));
    }
    assert_eq!(
        judge_body(&leaf, &[], trust(&[&root]), &FIRST.sign(b"{}"), b"\xef\xbb\xbf{}"),
        Err(Reason::SignatureWrong)
    );
}

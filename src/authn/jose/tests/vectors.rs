//! Vectors of others: wycheproof, and the examples of RFC 7520, RFC 7797 and RFC 8037.

use super::*;

fn read(path: &str) -> Value {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/authn/jose/tests/data");
    serde_json::from_slice(&std::fs::read(folder.join(path)).unwrap()).unwrap()
}

/// Where we differ, and why.
const EXCUSED: &[(&str, u64, &str)] = &[
    ("json_web_signature", 346, "PS384 by a key whose `alg` is PS256: RFC 7520's own example, and the key wins"),
    ("json_web_signature", 347, "ES512 by a key whose `alg` is `ES521`, which names nothing"),
    ("json_web_signature", 350, "as 346"),
    ("json_web_signature", 351, "as 347"),
    ("json_web_signature", 372, "a character that base64url does not have, to be skipped: refused"),
    ("json_web_signature", 373, "as 372"),
    ("json_web_signature", 367, "byte for byte the token and key of 357, which is valid"),
    ("json_web_signature", 370, "as 367"),
];

fn wycheproof(file: &str, tests: usize) {
    let vectors = read(&format!("wycheproof/{file}_test.json"));
    let (mut seen, mut wrong) = (0, Vec::new());
    for group in vectors["testGroups"].as_array().unwrap() {
        let jwk = group.get("public").or_else(|| group.get("private")).unwrap();
        for test in group["tests"].as_array().unwrap() {
            let id = test["tcId"].as_u64().unwrap();
            let jws = match &test["jws"] {
                Value::String(jws) => jws.clone(),
                // Encryption.
                Value::Null => continue,
                json => json.to_string(),
            };
            seen += 1;
            let found = verify(&jws, jwk);
            let valid = test["result"] == "valid";
            let excused = EXCUSED.iter().any(|(in_file, excused, _)| *in_file == file && *excused == id);
            if found.is_ok() != valid && !excused {
                wrong.push(format!("{id} {} expected {valid}, found {found:?}", test["comment"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {seen} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(seen, tests);
}

#[test]
fn wycheproof_signatures() {
    wycheproof("json_web_signature", 401);
}

#[test]
fn wycheproof_keys() {
    wycheproof("json_web_key", 26);
}

#[test]
fn wycheproof_crypto() {
    wycheproof("json_web_crypto", 49);
}

#[test]
fn the_cookbook() {
    for file in [
        "jws/4_1.rsa_v15_signature",
        "jws/4_2.rsa-pss_signature",
        "jws/4_3.ecdsa_signature",
        "jws/4_4.hmac-sha2_integrity_protection",
        "curve25519/jws",
    ] {
        let example = read(&format!("cookbook/{file}.json"));
        let payload = verify(example["output"]["compact"].as_str().unwrap(), &example["input"]["key"]).unwrap();
        assert_eq!(String::from_utf8(payload).unwrap(), example["input"]["payload"].as_str().unwrap(), "{file}");
    }
    // Detached, unprotected, several signatures: not the one form.
    for file in [
        "jws/4_5.signature_with_detached_content",
        "jws/4_6.protecting_specific_header_fields",
        "jws/4_7.protecting_content_only",
        "jws/4_8.multiple_signatures",
        "rfc7797/4.2.hmac-sha2_b64_false",
    ] {
        let example = read(&format!("cookbook/{file}.json"));
        let text =
            example["output"]["compact"].as_str().map_or_else(|| example["output"]["json"].to_string(), str::to_owned);
        let key = &example["input"]["key"];
        let key = if key.is_array() { &key[0] } else { key };
        assert!(verify(&text, key).is_err(), "{file}");
    }
    // Keys as they are printed: of these, the third is for messages and has no name.
    for file in ["3_1.ec_public_key", "3_3.rsa_public_key", "3_5.symmetric_key_mac_computation"] {
        assert!(keys(&read(&format!("cookbook/jwk/{file}.json"))).is_ok(), "{file}");
    }
}

//! Who a notice is from: whoever knows the secret signs its time and its body.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Seconds that the signer's clock may be off, and that a notice may be under way.
const TOLERANCE_S: u64 = 300;
/// Signatures of one notice: a secret that is being replaced has two.
const SIGNATURES: usize = 16;

/// A notice that is not taken. Why exactly is for nobody who tries to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is missing, wrong or too old")]
pub struct BadSignature;

/// Checks the header `Stripe-Signature`: `t=SECONDS,v1=HEX[,v1=HEX…]`, an HMAC-SHA256 over `SECONDS.BODY`.
///
/// # Errors
/// When no signature fits, or the time is more than five minutes from now.
pub fn verify(header: &str, body: &[u8], secret: &str, now_s: u64) -> Result<(), BadSignature> {
    let mut time = None;
    let mut signatures = Vec::new();
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("t", text)) => time = Some(text),
            Some(("v1", text)) if signatures.len() < SIGNATURES => signatures.extend(bytes(text)),
            Some(_) | None => {}
        }
    }
    let time = time.ok_or(BadSignature)?;
    let time_s: u64 = time.parse().map_err(|_| BadSignature)?;
    if time_s.abs_diff(now_s) > TOLERANCE_S {
        return Err(BadSignature);
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| BadSignature)?;
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(body);
    // Compared in constant time.
    let fits = |signature: &Vec<u8>| mac.clone().verify_slice(signature).is_ok();
    if signatures.iter().any(fits) {
        return Ok(());
    }
    Err(BadSignature)
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let byte = |index: usize| u8::from_str_radix(&digits[index..index + 2], 16).ok();
    (0..64).step_by(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"{\"id\":\"evt_1\"}";
    // printf '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test
    const SIGNED: &str = "c89214b5b5da833daed6f0b8c5bb6bd58cea9022bd80ccc78230f3942d632925";

    fn check(header: &str, now_s: u64) -> bool {
        verify(header, BODY, "whsec_test", now_s).is_ok()
    }

    #[test]
    fn only_what_was_signed_just_now_is_taken() {
        let good = format!("t=1700000000,v1={SIGNED}");
        assert!(check(&good, 1_700_000_000));
        assert!(check(&good, 1_700_000_300) && check(&good, 1_699_999_700));
        assert!(
            !check(&good, 1_700_000_301) && !check(&good, 1_699_999_699),
            "too old or too new"
        );
        let rolled = format!("t=1700000000,v1={},v1={SIGNED},v0=x", "0".repeat(64));
        assert!(check(&rolled, 1_700_000_000), "one of two secrets");
        for bad in [
            String::new(),
            format!("v1={SIGNED}"),
            "t=1700000000".to_owned(),
            format!("t=1700000001,v1={SIGNED}"),
            format!("t=1700000000,v0={SIGNED}"),
            format!("t=1700000000,v1={}", &SIGNED[..62]),
            format!("t=1700000000,v1={}", "zz".repeat(32)),
            format!("t=1700000000,v1={}", "0".repeat(64)),
            format!("t=now,v1={SIGNED}"),
        ] {
            assert!(!check(&bad, 1_700_000_000), "{bad}");
        }
        assert!(
            verify(&good, b"{\"id\":\"evt_2\"}", "whsec_test", 1_700_000_000).is_err(),
            "another body"
        );
        assert!(
            verify(&good, BODY, "whsec_other", 1_700_000_000).is_err(),
            "another secret"
        );
    }
}

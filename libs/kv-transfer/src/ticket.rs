//! One-use tickets: made by the source, checked by the same source. Nobody else knows the key.

use vlinders_types::{RequestId, Ticket};

use crate::Refusal;

/// What a ticket is good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// The source's life: a ticket of an earlier one is no good even under the same key.
    pub(crate) incarnation: u64,
    pub(crate) request: RequestId,
    pub(crate) attempt: u32,
    pub(crate) block_count: u32,
}

/// A ticket for `claim`, good until `expires_ms`.
pub(crate) fn issue(key: &[u8; 32], claim: Claim, number: u64, expires_ms: u64) -> Ticket {
    Ticket {
        number,
        expires_ms,
        mac: mac_of(key, claim, number, expires_ms),
    }
}

/// Checks that the ticket was issued here for `claim` and has not expired. That it is used once is seen from
/// the hand-off itself.
pub(crate) fn check(key: &[u8; 32], claim: Claim, ticket: &Ticket, now_ms: u64) -> Result<(), Refusal> {
    let genuine = mac_of(key, claim, ticket.number, ticket.expires_ms);
    // All bytes are looked at, so that the time taken does not tell how many were right.
    let difference = genuine
        .iter()
        .zip(&ticket.mac)
        .fold(0, |seen, (left, right)| seen | (left ^ right));
    if difference != 0 {
        return Err(Refusal::TicketForged);
    }
    if now_ms > ticket.expires_ms {
        return Err(Refusal::TicketExpired);
    }
    Ok(())
}

fn mac_of(key: &[u8; 32], claim: Claim, number: u64, expires_ms: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    // Fields of fixed width: no two claims have the same bytes.
    hasher.update(&claim.incarnation.to_le_bytes());
    hasher.update(&claim.request.0.to_le_bytes());
    hasher.update(&claim.attempt.to_le_bytes());
    hasher.update(&claim.block_count.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(&expires_ms.to_le_bytes());
    let mut mac = [0; 16];
    mac.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];
    const CLAIM: Claim = Claim {
        incarnation: 1,
        request: RequestId(2),
        attempt: 3,
        block_count: 4,
    };

    #[test]
    fn a_ticket_is_good_for_its_claim_until_it_expires() {
        let ticket = issue(&KEY, CLAIM, 5, 1_000);
        assert_eq!(check(&KEY, CLAIM, &ticket, 1_000), Ok(()));
        assert_eq!(check(&KEY, CLAIM, &ticket, 1_001), Err(Refusal::TicketExpired));
    }

    #[test]
    fn any_change_makes_it_a_forgery() {
        let ticket = issue(&KEY, CLAIM, 5, 1_000);
        let claims = [
            Claim {
                incarnation: 9,
                ..CLAIM
            },
            Claim {
                request: RequestId(9),
                ..CLAIM
            },
            Claim { attempt: 9, ..CLAIM },
            Claim {
                block_count: 9,
                ..CLAIM
            },
        ];
        for claim in claims {
            assert_eq!(
                check(&KEY, claim, &ticket, 0),
                Err(Refusal::TicketForged),
                "{claim:?}"
            );
        }
        let mut last_bit = ticket;
        last_bit.mac[15] ^= 1;
        let tickets = [
            Ticket { number: 6, ..ticket },
            Ticket {
                expires_ms: 1_001,
                ..ticket
            },
            last_bit,
        ];
        for ticket in tickets {
            assert_eq!(
                check(&KEY, CLAIM, &ticket, 0),
                Err(Refusal::TicketForged),
                "{ticket:?}"
            );
        }
        assert_eq!(check(&[8; 32], CLAIM, &ticket, 0), Err(Refusal::TicketForged));
    }
}

//! What a key is for.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// One thing a key may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To have models compute something.
    Inference,
    /// To read the metrics of the server, which tell of all tenants.
    Metrics,
    /// To read what its tenant has used, with whatever key.
    Usage,
    /// To change keys and limits.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Inference, Self::Metrics, Self::Usage, Self::Admin];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Metrics => "metrics",
            Self::Usage => "usage",
            Self::Admin => "admin",
        }
    }
}

/// A word that is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no scope; use inference, metrics, usage or admin")]
pub struct UnknownScope(pub String);

/// Everything a key is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// These.
    #[must_use]
    pub fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().copied().collect())
    }

    /// Whether the key is for this.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.0.contains(&scope)
    }
}

impl Default for Scopes {
    fn default() -> Self {
        Self::of(&[Scope::Inference])
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|scope| scope.name()).collect();
        out.write_str(&names.join(","))
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    /// Names, separated by commas or spaces.
    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let names = text.split([',', ' ']).filter(|name| !name.is_empty());
        let scopes = names.map(|name| {
            let known = Scope::ALL.into_iter().find(|scope| scope.name() == name);
            known.ok_or_else(|| UnknownScope(name.to_owned()))
        });
        Ok(Self(scopes.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_back_and_others_are_named() {
        let scopes: Scopes = "admin, inference".parse().unwrap();
        assert_eq!(scopes.to_string(), "inference,admin");
        assert_eq!(scopes.to_string().parse(), Ok(scopes));
        assert_eq!("".parse(), Ok(Scopes::of(&[])));
        assert_eq!("root".parse::<Scopes>(), Err(UnknownScope("root".to_owned())));
    }
}

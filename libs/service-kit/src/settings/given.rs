//! A setting's text and what it means.

use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// What a setting can be.
pub trait SettingValue: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with the text, without repeating it: `is no whole number`.
    fn read(text: &str) -> Result<Self, String>;
}

/// A setting as it was given. Reading never fails at once: [`super::Checks`] tells all faults together.
#[derive(Clone, PartialEq, Eq)]
pub struct Given<T>(Result<T, String>);

impl<T> Given<T> {
    /// The value.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn get(&self) -> Result<&T, &str> {
        self.0.as_ref().map_err(String::as_str)
    }
}

impl<T: SettingValue> FromStr for Given<T> {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let text = text.trim();
        Ok(Self(T::read(text).map_err(|fault| format!("`{text}` {fault}"))))
    }
}

impl<T: fmt::Debug> fmt::Debug for Given<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {
        $(impl SettingValue for $number {
            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| match text.parse::<i128>() {
                    Ok(_) => format!("is not from {} to {}", <$number>::MIN, <$number>::MAX),
                    Err(_) => "is no whole number".to_owned(),
                })
            }
        })*
    };
}

whole_numbers!(u16, u32, u64, usize);

impl SettingValue for f64 {
    fn read(text: &str) -> Result<Self, String> {
        let number: Option<Self> = text.parse().ok().filter(|number: &Self| number.is_finite());
        number.ok_or_else(|| "is no number".to_owned())
    }
}

impl SettingValue for bool {
    fn read(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("is neither true nor false".to_owned()),
        }
    }
}

impl SettingValue for SocketAddr {
    /// An address or the name of a host, and a port. An IPv6 address may come without brackets, as orchestrators fill it in.
    fn read(text: &str) -> Result<Self, String> {
        let shape = || "is no address and port such as 127.0.0.1:8000".to_owned();
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(shape)?;
        let port: u16 = port.parse().map_err(|_| shape())?;
        if let Ok(address) = host.parse::<Ipv6Addr>() {
            return Ok(Self::from((address, port)));
        }
        if host.is_empty() || !host.bytes().all(is_of_a_name) {
            return Err(shape());
        }
        let found = (host, port).to_socket_addrs();
        let first = found.ok().and_then(|mut addresses| addresses.next());
        first.ok_or_else(|| format!("names no known host `{host}`"))
    }
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

impl SettingValue for PathBuf {
    fn read(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("names nothing".to_owned());
        }
        Ok(Self::from(text))
    }
}

impl SettingValue for crate::LogFormat {
    fn read(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| "is no log format; use `text` or `json`".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told<T: SettingValue + fmt::Debug>(text: &str) -> String {
        text.parse::<Given<T>>().unwrap().get().unwrap_err().to_owned()
    }

    #[test]
    fn a_fault_repeats_the_text_and_says_what_is_expected() {
        assert_eq!(told::<u32>("many"), "`many` is no whole number");
        assert_eq!(told::<u16>("-1"), "`-1` is not from 0 to 65535");
        assert_eq!(told::<f64>("nan"), "`nan` is no number");
        assert_eq!(told::<bool>("maybe"), "`maybe` is neither true nor false");
        assert!(told::<SocketAddr>("nowhere").starts_with("`nowhere` is no address"));
    }

    #[test]
    fn an_address_may_name_a_host_and_leave_out_brackets() {
        let read = |text: &str| SocketAddr::read(text).unwrap();
        assert_eq!(read("[fd00::7]:9200"), read("fd00::7:9200"));
        assert!(read("localhost:9200").ip().is_loopback());
        assert_eq!(
            told::<SocketAddr>("no-such-host.invalid:1"),
            "`no-such-host.invalid:1` names no known host `no-such-host.invalid`"
        );
        for text in ["localhost", "localhost:", "localhost:99999", ":80", "a b:80"] {
            assert!(
                told::<SocketAddr>(text).contains("is no address and port"),
                "{text}"
            );
        }
    }

    #[test]
    fn spaces_around_a_value_do_not_belong_to_it() {
        assert_eq!(" 7\n".parse::<Given<u64>>().unwrap().get(), Ok(&7));
    }
}

//! `strftime` for the dates that chat templates write into system prompts. In UTC, as servers run.

use std::fmt::Write as _;

const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment taken apart, UTC.
struct Moment {
    unix_ms: u64,
    year: u64,
    /// 1 to 12.
    month: u64,
    /// 1 to 31.
    day: u64,
    /// 1 to 366.
    year_day: u64,
    /// 0 is Sunday.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Moment {
    fn new(unix_ms: u64) -> Self {
        const DAY_SECONDS: u64 = 86_400;
        let seconds = unix_ms / 1000;
        let (days, of_day) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
        let (mut year, mut day) = (1970, days);
        // 400 years are a whole number of weeks and of leap cycles.
        year += day / 146_097 * 400;
        day %= 146_097;
        while day >= year_length(year) {
            day -= year_length(year);
            year += 1;
        }
        let year_day = day + 1;
        let mut month = 1;
        while day >= month_length(year, month) {
            day -= month_length(year, month);
            month += 1;
        }
        Self {
            unix_ms,
            year,
            month,
            day: day + 1,
            year_day,
            // 1970 began on a Thursday.
            weekday: (days + 4) % 7,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    fn month_name(&self) -> &'static str {
        MONTHS[usize::try_from(self.month - 1).expect("a month is 1 to 12")]
    }

    fn weekday_name(&self) -> &'static str {
        WEEKDAYS[usize::try_from(self.weekday).expect("a weekday is 0 to 6")]
    }

    fn hour_of_12(&self) -> u64 {
        (self.hour + 11) % 12 + 1
    }

    fn half_of_day(&self) -> &'static str {
        if self.hour < 12 { "AM" } else { "PM" }
    }

    /// Weeks begun since the year's first one, which begins with its first weekday `first`.
    fn week(&self, first: u64) -> u64 {
        (self.year_day + 6 - (self.weekday + 7 - first) % 7) / 7
    }

    /// Year and number of the ISO week.
    fn iso_week(&self) -> (u64, u64) {
        // 1 is Monday, 7 is Sunday; a week belongs to the year of its Thursday.
        let weekday = (self.weekday + 6) % 7 + 1;
        let week = (self.year_day + 10 - weekday) / 7;
        match week {
            0 => (self.year - 1, weeks_in(self.year - 1)),
            53 if weeks_in(self.year) == 52 => (self.year + 1, 1),
            week => (self.year, week),
        }
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn year_length(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_length(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// ISO weeks of a year: 53 when it begins on a Thursday, or on a Wednesday and is a leap year.
fn weeks_in(year: u64) -> u64 {
    let before = year - 1;
    // Days since Monday, 1 January of year 1.
    let first = (before * 365 + before / 4 - before / 100 + before / 400) % 7;
    if first == 3 || (first == 2 && is_leap(year)) {
        53
    } else {
        52
    }
}

/// Formats as C's `strftime` does in its own locale, as Python's `datetime.utcnow().strftime`. An unknown code is kept.
pub(crate) fn strftime(format: &str, unix_ms: u64) -> String {
    let moment = Moment::new(unix_ms);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let rest = chars.as_str();
        let unpadded = rest.strip_prefix('-');
        let mut after = unpadded.unwrap_or(rest).chars();
        let code = after.next();
        match code.and_then(|code| field(code, &moment)) {
            Some(text) if unpadded.is_some() => out.push_str(without_padding(&text)),
            Some(text) => out.push_str(&text),
            None => {
                out.push('%');
                continue;
            }
        }
        chars = after;
    }
    out
}

fn without_padding(text: &str) -> &str {
    let trimmed = text.trim_start_matches(['0', ' ']);
    if trimmed.is_empty() { "0" } else { trimmed }
}

fn field(code: char, moment: &Moment) -> Option<String> {
    let two = |number: u64| format!("{number:02}");
    let spaced = |number: u64| format!("{number:2}");
    let joined = |format: &str| strftime(format, moment.unix_ms);
    let mut text = String::new();
    match code {
        'Y' => write!(text, "{}", moment.year).ok()?,
        'C' => text = two(moment.year / 100),
        'y' => text = two(moment.year % 100),
        'm' => text = two(moment.month),
        'd' => text = two(moment.day),
        'e' => text = spaced(moment.day),
        'j' => write!(text, "{:03}", moment.year_day).ok()?,
        'H' => text = two(moment.hour),
        'k' => text = spaced(moment.hour),
        'I' => text = two(moment.hour_of_12()),
        'l' => text = spaced(moment.hour_of_12()),
        'M' => text = two(moment.minute),
        'S' => text = two(moment.second),
        'f' => write!(text, "{:06}", moment.unix_ms % 1000 * 1000).ok()?,
        's' => write!(text, "{}", moment.unix_ms / 1000).ok()?,
        'B' => text.push_str(moment.month_name()),
        'b' | 'h' => text.push_str(&moment.month_name()[..3]),
        'A' => text.push_str(moment.weekday_name()),
        'a' => text.push_str(&moment.weekday_name()[..3]),
        'p' => text.push_str(moment.half_of_day()),
        'P' => text = moment.half_of_day().to_ascii_lowercase(),
        'w' => write!(text, "{}", moment.weekday).ok()?,
        'u' => write!(text, "{}", (moment.weekday + 6) % 7 + 1).ok()?,
        'U' => text = two(moment.week(0)),
        'W' => text = two(moment.week(1)),
        'V' => text = two(moment.iso_week().1),
        'G' => write!(text, "{}", moment.iso_week().0).ok()?,
        'g' => text = two(moment.iso_week().0 % 100),
        'F' => text = joined("%Y-%m-%d"),
        'T' | 'X' => text = joined("%H:%M:%S"),
        'R' => text = joined("%H:%M"),
        'r' => text = joined("%I:%M:%S %p"),
        'D' | 'x' => text = joined("%m/%d/%y"),
        'c' => text = joined("%a %b %e %H:%M:%S %Y"),
        // A moment without a zone has no zone's name either.
        'Z' | 'z' => {}
        'n' => text.push('\n'),
        't' => text.push('\t'),
        '%' => text.push('%'),
        _ => return None,
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_templates_write_come_out_right() {
        // 2026-11-05 07:04:09.250 UTC, a Thursday.
        let moment = 1_793_862_249_250;
        for (format, text) in [
            ("%d %b %Y", "05 Nov 2026"),
            ("%Y-%m-%d", "2026-11-05"),
            ("%B %-d, %Y", "November 5, 2026"),
            ("%A, %e %h %y", "Thursday,  5 Nov 26"),
            ("%I:%M %p", "07:04 AM"),
            ("%T.%f", "07:04:09.250000"),
            ("%j %U %W %V %G %u %w", "309 44 44 45 2026 4 4"),
            ("100%% %Q %", "100% %Q %"),
            ("%-H:%-M", "7:4"),
        ] {
            assert_eq!(strftime(format, moment), text, "{format}");
        }
    }

    #[test]
    fn years_turn_where_they_should() {
        for (unix, text) in [
            (0, "1970-01-01 Thu 001 01 1970"),
            (951_782_400, "2000-02-29 Tue 060 09 2000"),
            (1_230_768_000, "2009-01-01 Thu 001 01 2009"),
            (1_262_304_000, "2010-01-01 Fri 001 53 2009"),
            (1_419_984_000, "2014-12-31 Wed 365 01 2015"),
            (4_107_542_399, "2100-02-28 Sun 059 08 2100"),
            (13_569_465_600, "2400-01-01 Sat 001 52 2399"),
        ] {
            assert_eq!(strftime("%F %a %j %V %G", unix * 1000), text);
        }
    }
}

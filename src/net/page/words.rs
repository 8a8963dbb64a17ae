//! Numbers as people read them.

pub(super) use crate::model::text::millis;

/// `12 345`.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + 8);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            // A narrow space that breaks no line.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// `3.5 MiB`.
pub(super) fn bytes(n: u64) -> String {
    let (mut value, mut unit) = (n as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

/// A time in microseconds, as [`millis`] has it.
pub(super) fn time(micros: u64) -> String {
    millis(micros as f64 / 1e3)
}

/// How long something runs, the two largest units of it.
pub(super) fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A time of day with its date, from RFC 3339.
pub(super) fn clock(at: &str) -> String {
    at.get(..19).unwrap_or(at).replacen('T', " ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_short_and_true() {
        assert_eq!([number(0), number(999), number(1_234_567)], ["0", "999", "1\u{202f}234\u{202f}567"]);
        assert_eq!([bytes(1023), bytes(1536), bytes(5 << 30)], ["1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!([time(0), time(5), time(40), time(400)], ["-", "< 0.01 ms", "0.04 ms", "0.40 ms"]);
        assert_eq!([time(999_949), time(2_000_000), time(61_000_000)], ["999.9 ms", "2.0 s", "1.0 min"]);
        assert_eq!(
            [uptime(59), uptime(61), uptime(7260), uptime(90_000)],
            ["59 s", "1 min 1 s", "2 h 1 min", "1 d 1 h"]
        );
        assert_eq!(clock("2026-11-20T12:00:01.123Z"), "2026-11-20 12:00:01");
        assert_eq!(clock("ü"), "ü");
    }
}

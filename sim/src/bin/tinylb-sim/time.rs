//! Times on the command line.

use std::time::Duration;

/// Reads a number with its unit: `1500ms`, `1.5s`, `5m`, `2h`.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "it must be a number with ms, s, m or h, such as 1.5s".to_owned();
    let unit_at = text.find(|letter: char| letter.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        let ms = |text| parse(text).map(|time| time.as_millis());
        assert_eq!(ms("1.5s"), Ok(1500));
        assert_eq!(ms("1500ms"), Ok(1500));
        assert_eq!(ms("5m"), Ok(300_000));
        assert_eq!(ms("2h"), Ok(7_200_000));
        for wrong in ["", "5", "s", "-1s", "1 s", "1d", "1e99h", "infs"] {
            assert!(ms(wrong).is_err(), "{wrong}");
        }
    }
}

use std::str::FromStr;

/// A range of seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seeds {
    pub(crate) first: u64,
    /// The first that isn't meant; `None`: there is no end.
    pub(crate) end: Option<u64>,
}

impl Seeds {
    /// How many there are.
    pub(crate) fn count(self) -> Option<u64> {
        self.end.map(|end| end - self.first)
    }
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "it must look like 0..100, or 100.. for no end".to_owned();
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let (first, end) = text.split_once("..").ok_or_else(wrong)?;
        let first = number(first)?;
        let end = if end.is_empty() { None } else { Some(number(end)?) };
        match end {
            Some(end) if end <= first => {
                Err(format!("no seed is in it; the end must be {} or more", first + 1))
            }
            _ => Ok(Self { first, end }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_first_seed_and_maybe_an_end() {
        assert_eq!("3..10".parse(), Ok(Seeds { first: 3, end: Some(10) }));
        assert_eq!("1000..".parse(), Ok(Seeds { first: 1000, end: None }));
        for wrong in ["", "5", "..5", "5..5", "6..5", "a..b", "-1..5"] {
            assert!(wrong.parse::<Seeds>().is_err(), "{wrong}");
        }
    }
}

//! Refuses changes by a stranger's web page in a browser that reaches this address.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::{
    Request,
    header::{HOST, ORIGIN},
};

/// Refuses requests that another site's page in a browser could have sent. If a page's own name
/// leads to this address (DNS rebinding), the browser treats its requests as same-origin, and their
/// host is that name. So the host must be an IP address or `localhost`, which no stranger's page
/// can have. A request with an `Origin` comes from a browser, so the origin must be the same host.
///
/// # Errors
/// Cause and remedy in one line.
pub(super) fn refuse_strangers<B>(request: &Request<B>) -> Result<(), String> {
    let text = |value: &hyper::header::HeaderValue| {
        String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase()
    };
    let headers = request.headers();
    let mut hosts: Vec<String> = headers.get_all(HOST).iter().map(text).collect();
    hosts.extend(request.uri().authority().map(|host| host.as_str().to_ascii_lowercase()));
    if let Some(foreign) = hosts.iter().find(|host| !is_own(host)) {
        return Err(format!(
            "the host `{foreign}` is a name, which a web page could use to get in: use the IP \
             address, or the header `Host: localhost`"
        ));
    }
    let is_same = |origin: &str| hosts.iter().any(|host| origin == format!("http://{host}"));
    match headers.get_all(ORIGIN).iter().map(text).find(|origin| !is_same(origin)) {
        Some(origin) => Err(format!(
            "the request comes from a web page with the origin `{origin}`: send it without a browser"
        )),
        None => Ok(()),
    }
}

/// Whether this is an IP address or `localhost`, with or without a port.
fn is_own(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((ip, port)) = rest.split_once(']') else { return false };
            return ip.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
        }
        None => host.split_once(':').unwrap_or((host, "0")),
    };
    is_port(port) && (name == "localhost" || name.parse::<Ipv4Addr>().is_ok())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(hosts: &[&str], origin: Option<&str>) -> Request<()> {
        let mut request = Request::put("/services/s/backends");
        for host in hosts {
            request = request.header(HOST, *host);
        }
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn hosts_that_no_page_can_have_are_let_in() {
        for host in
            ["127.0.0.1", "10.0.0.7:9900", "[::1]", "[::1]:9900", "localhost", "LOCALHOST:1"]
        {
            assert_eq!(refuse_strangers(&request(&[host], None)), Ok(()), "{host}");
            let origin = format!("http://{host}");
            assert_eq!(refuse_strangers(&request(&[host], Some(&origin))), Ok(()), "{host}");
        }
        // No host: every browser sends one.
        assert_eq!(refuse_strangers(&request(&[], None)), Ok(()));
    }

    #[test]
    fn names_and_other_origins_are_refused() {
        let long = "x".repeat(300);
        for host in [
            "example.org",
            "example.org:9900",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "127.0.0.1:9900:1",
            "127.0.0.1@example.org",
            "[::1].example.org",
            "[::1",
            "1",
            "",
            &long,
        ] {
            assert!(refuse_strangers(&request(&[host], None)).is_err(), "{host}");
        }
        assert!(refuse_strangers(&request(&["127.0.0.1", "example.org"], None)).is_err());
        for origin in
            ["http://example.org", "null", "https://127.0.0.1:1", "http://127.0.0.1:2", ""]
        {
            let request = request(&["127.0.0.1:1"], Some(origin));
            assert!(refuse_strangers(&request).is_err(), "{origin}");
        }
        let absolute = Request::put("http://example.org/services/s/backends").body(()).unwrap();
        assert!(refuse_strangers(&absolute).is_err());
    }
}

use super::{Backend, Rest, free_address};

/// Backends, each at a host of its own, with an HTTP server at one port of all hosts.
pub(crate) struct Cluster {
    nodes: Vec<(Backend, Rest)>,
}

impl Cluster {
    /// `n1`, `n2`, …, one for each status.
    pub(crate) fn new(statuses: &[Option<u16>]) -> Self {
        let mut port = 0;
        let node = |(number, status): (usize, &Option<u16>)| {
            let address = free_address();
            let host = address.split(':').next().unwrap();
            let rest = Rest::at(host, port, *status);
            port = rest.port;
            let backend = Backend::echo_at(&format!("n{}", number + 1), &format!("{host}:0"));
            (backend, rest)
        };
        Self { nodes: statuses.iter().enumerate().map(node).collect() }
    }

    pub(crate) fn port(&self) -> u16 {
        self.nodes[0].1.port
    }

    pub(crate) fn rest(&self, node: usize) -> &Rest {
        &self.nodes[node - 1].1
    }

    pub(crate) fn address(&self, node: usize) -> &str {
        &self.nodes[node - 1].0.address
    }

    /// Some of the backends as a table.
    pub(crate) fn table(&self, nodes: &[usize], separator: &str) -> String {
        let entry = |node: &usize| format!("\"n{node}\"{separator}{:?}", self.address(*node));
        let entries: Vec<String> = nodes.iter().map(entry).collect();
        format!("{{ {} }}", entries.join(", "))
    }

    /// A service `s` with some of the backends, and these further lines.
    pub(crate) fn config(&self, nodes: &[usize], lines: &str) -> String {
        let table = self.table(nodes, " = ");
        format!("[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {table}\nstart = 0\n{lines}\n")
    }

    /// A line with a check over HTTP, often enough for a test.
    pub(crate) fn check(&self, path: &str, more: &str) -> String {
        let port = self.port();
        format!("check = {{ http = {path:?}, port = {port}, interval = \"100ms\"{more} }}")
    }
}

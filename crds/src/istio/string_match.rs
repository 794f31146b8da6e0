//! How VirtualServices compare texts, and where they send requests.

one_of! {
    /// How a text is compared. Case-sensitive unless the user of the match says otherwise.
    pub enum StringMatch {
        /// Equal.
        Exact(String) = "exact",
        /// Starts with.
        Prefix(String) = "prefix",
        /// RE2 expression that matches the whole text. In header matches `*` means present.
        Regex(String) = "regex",
    } otherwise {
        /// `{}`: in header matches, present with any value.
        Present,
    }
}

record! {
    /// A share of requests.
    pub struct Percent {
        /// 0 to 100; absent is 0.
        value: f64 = "value" or 0.0;
    }
}

record! {
    /// A Service port by number.
    pub struct PortSelector {
        /// 1 to 65535; absent is 0, which validation refuses.
        number: u32 = "number" or 0;
    }
}

record! {
    /// A service, one of its subsets, one of its ports.
    pub struct Destination {
        /// A host name, short or full; a short one is resolved in the namespace of the rule.
        host: String = "host";
        /// A subset that a DestinationRule for the host defines; empty means all endpoints.
        subset: String = "subset" or String::new();
        /// Absent: the only port of the service, else the port of the listener.
        port: Option<PortSelector> = "port";
    }
}

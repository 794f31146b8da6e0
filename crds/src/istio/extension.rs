//! WasmPlugin and TrafficExtension: code of others in the proxy. <https://istio.io/latest/docs/reference/config/proxy_extensions/wasm-plugin/>

use std::collections::BTreeMap;

use serde_json::Value;

use super::{PolicyTargetReference, WorkloadSelector};
use crate::codes::Code;
use crate::schema::Check::{Items, Length, Pattern, Range, Rule, Unique};
use crate::schema::Cursor;
use crate::schema::formats::up_to;
use crate::schema::url::request_scheme;

record! {
    /// The spec of a WasmPlugin.
    pub struct WasmPlugin {
        /// Workloads it applies to.
        selector: Option<WorkloadSelector> = "selector";
        /// Deprecated: one target.
        target_ref: Option<PolicyTargetReference> = "targetRef";
        /// Objects it applies to.
        target_refs: Vec<PolicyTargetReference> = "targetRefs" [Items(0, 16)];
        /// Where the module is.
        url: String = "url" [Length(1, usize::MAX), Rule("an http, https, oci or file URL", is_module_url, MODULE_URL_RULE)];
        /// Checksum of the module.
        sha256: String = "sha256" [Pattern("64 hexadecimal digits", is_checksum, "(^$|^[a-f0-9]{64}$)")] or String::new();
        /// When the module is fetched.
        image_pull_policy: Option<PullPolicy> = "imagePullPolicy";
        /// Credentials for the registry.
        image_pull_secret: Option<String> = "imagePullSecret" [Length(1, 253)];
        /// Key that the module is signed with.
        verification_key: String = "verificationKey" or String::new();
        /// Settings of the plugin.
        plugin_config: Option<BTreeMap<String, Value>> = "pluginConfig";
        /// Name of the plugin.
        plugin_name: Option<String> = "pluginName" [Length(1, 256)];
        /// Where in the chain of filters it stands.
        phase: Option<PluginPhase> = "phase";
        /// Order within the phase.
        priority: Option<i32> = "priority";
        /// What happens when it fails.
        fail_strategy: Option<FailStrategy> = "failStrategy";
        /// Settings of the virtual machine.
        vm_config: Option<VmConfig> = "vmConfig";
        /// Traffic it sees; empty is all.
        r#match: Vec<TrafficSelector> = "match";
        /// HTTP or network filter.
        plugin_type: Option<PluginType> = "type";
    }
    at_most_one ["selector", "targetRef", "targetRefs"];
}

record! {
    /// The spec of a TrafficExtension.
    pub struct TrafficExtension {
        /// Workloads it applies to.
        selector: Option<WorkloadSelector> = "selector";
        /// Objects it applies to.
        target_refs: Vec<PolicyTargetReference> = "targetRefs" [Items(0, 16)];
        /// Where in the chain of filters it stands.
        phase: Option<ExtensionPhase> = "phase";
        /// Order within the phase.
        priority: Option<i32> = "priority";
        /// Traffic it sees; empty is all.
        r#match: Vec<TrafficSelector> = "match";
        /// A WebAssembly module.
        wasm: Option<WasmModule> = "wasm";
        /// A Lua script.
        lua: Option<LuaScript> = "lua";
    }
    at_most_one ["selector", "targetRefs"], ["wasm", "lua"];
    verify has_code;
    cel ["has(self.wasm) || has(self.lua)", "`wasm` or `lua` must be set"];
}

fn has_code(extension: &TrafficExtension, cursor: &mut Cursor<'_>) {
    if extension.wasm.is_none() && extension.lua.is_none() {
        cursor.report(Code::InvalidCombination, "`wasm` or `lua` must be set");
    }
}

record! {
    /// A WebAssembly module.
    pub struct WasmModule {
        /// Where the module is.
        url: String = "url" [Length(1, usize::MAX), Rule("an http, https, oci or file URL", is_module_url, MODULE_URL_RULE)];
        /// Checksum of the module.
        sha256: String = "sha256" [Pattern("64 hexadecimal digits", is_checksum, "(^$|^[a-f0-9]{64}$)")] or String::new();
        /// When the module is fetched.
        image_pull_policy: Option<PullPolicy> = "imagePullPolicy";
        /// Credentials for the registry.
        image_pull_secret: Option<String> = "imagePullSecret" [Length(1, 253)];
        /// Key that the module is signed with.
        verification_key: String = "verificationKey" or String::new();
        /// Settings of the plugin.
        plugin_config: Option<BTreeMap<String, Value>> = "pluginConfig";
        /// Name of the plugin.
        plugin_name: Option<String> = "pluginName" [Length(1, 256)];
        /// What happens when it fails.
        fail_strategy: Option<FailStrategy> = "failStrategy";
        /// Settings of the virtual machine.
        vm_config: Option<VmConfig> = "vmConfig";
        /// HTTP or network filter.
        plugin_type: Option<PluginType> = "type";
    }
}

record! {
    /// A Lua script.
    pub struct LuaScript {
        /// Its text.
        inline_code: String = "inlineCode" [Length(1, 65536), Rule("of at most 65536 bytes", |code| code.len() <= 65536, "bytes(self).size() <= 65536")];
    }
}

record! {
    /// Traffic that an extension sees.
    pub struct TrafficSelector {
        /// Which side of a call.
        mode: Option<ExtensionMode> = "mode";
        /// Ports; empty is all.
        ports: Vec<ExtensionPort> = "ports" [Unique(&["number"])];
    }
}

record! {
    /// A port.
    pub struct ExtensionPort {
        /// Its number.
        number: u32 = "number" [Range(1, 65535)];
    }
}

record! {
    /// Settings of the virtual machine.
    pub struct VmConfig {
        /// Environment variables.
        env: Vec<EnvVar> = "env" [Items(0, 256), Unique(&["name"])];
    }
}

record! {
    /// An environment variable of the virtual machine.
    pub struct EnvVar {
        /// Its name.
        name: String = "name" [Length(1, 256)];
        /// Where its value comes from.
        value_from: Option<EnvSource> = "valueFrom";
        /// Its value.
        value: Option<String> = "value" [up_to(2048)];
    }
    verify value_fits_source;
    cel ["!has(self.value) || !has(self.valueFrom) || self.valueFrom != 'HOST'", "`value` may only be set with INLINE"];
}

fn value_fits_source(variable: &EnvVar, cursor: &mut Cursor<'_>) {
    if variable.value_from == Some(EnvSource::Host) && variable.value.is_some() {
        cursor.report_at("value", Code::InvalidCombination, "`value` may only be set with INLINE");
    }
}

choice! {
    /// Where the value of an environment variable comes from.
    pub enum EnvSource {
        /// The document.
        Inline = "INLINE",
        /// The proxy's own environment.
        Host = "HOST",
    }
}

choice! {
    /// Which side of a call is meant.
    pub enum ExtensionMode {
        /// Default.
        Undefined = "UNDEFINED",
        /// Outbound.
        Client = "CLIENT",
        /// Inbound.
        Server = "SERVER",
        /// Both.
        ClientAndServer = "CLIENT_AND_SERVER",
    }
}

choice! {
    /// When a module is fetched.
    pub enum PullPolicy {
        /// Default.
        Unspecified = "UNSPECIFIED_POLICY",
        /// If it is not there.
        IfNotPresent = "IfNotPresent",
        /// Always.
        Always = "Always",
    }
}

choice! {
    /// Where in the chain of filters a plugin stands.
    pub enum PluginPhase {
        /// Default.
        Unspecified = "UNSPECIFIED_PHASE",
        /// Before authentication.
        Authn = "AUTHN",
        /// Before authorization.
        Authz = "AUTHZ",
        /// Before statistics.
        Stats = "STATS",
    }
}

choice! {
    /// Where in the chain of filters an extension stands.
    pub enum ExtensionPhase {
        /// Default.
        Unspecified = "UNSPECIFIED",
        /// Before authentication.
        Authn = "AUTHN",
        /// Before authorization.
        Authz = "AUTHZ",
        /// Before statistics.
        Stats = "STATS",
    }
}

choice! {
    /// What happens when a plugin fails.
    pub enum FailStrategy {
        /// The request is refused.
        Close = "FAIL_CLOSE",
        /// The request passes.
        Open = "FAIL_OPEN",
        /// The plugin is started anew.
        Reload = "FAIL_RELOAD",
    }
}

choice! {
    /// What kind of filter a plugin is.
    pub enum PluginType {
        /// Default.
        Unspecified = "UNSPECIFIED_PLUGIN_TYPE",
        /// For requests.
        Http = "HTTP",
        /// For connections.
        Network = "NETWORK",
    }
}

const MODULE_URL_RULE: &str =
    "isURL(self) ? url(self).getScheme() in ['', 'http', 'https', 'oci', 'file'] : isURL('http://' + self)";

fn is_module_url(text: &str) -> bool {
    let by_host = || request_scheme(&format!("http://{text}")).filter(|_| !text.starts_with('/'));
    let scheme = request_scheme(text).or_else(by_host);
    scheme.is_some_and(|scheme| matches!(scheme.as_str(), "" | "http" | "https" | "oci" | "file"))
}

fn is_checksum(text: &str) -> bool {
    text.is_empty() || (text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

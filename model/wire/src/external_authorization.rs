//! Mirrors `palisade_model::external_authorization`.

use palisade_model::external_authorization::{
    CheckBody, CheckService, ExternalAuthorization, ExternalCheck, ExternalProvider, HttpCheck, NamePattern,
};

use crate::{
    field::{InvalidField, Problem, Wire, wire_struct},
    proto::v1::{self, external_provider, name_pattern},
};

wire_struct!(ExternalAuthorization => v1::ExternalAuthorization { key: plain, checks: list });
wire_struct!(ExternalCheck => v1::ExternalCheck {
    provider: plain,
    policies: plain,
    is_dry_run: same,
    asks: required,
});
wire_struct!(CheckService => v1::CheckService {
    cluster: plain,
    host: plain,
    timeout: required,
    fails_open: same,
    status_on_error: plain,
    body: optional,
    clears_route: same,
});
wire_struct!(CheckBody => v1::CheckBody { max_bytes: plain, allows_partial: same, is_bytes: same });
wire_struct!(HttpCheck => v1::HttpCheck {
    service: required,
    path_prefix: plain,
    request_headers: list,
    added_headers: list,
    upstream_headers: list,
    denied_headers: list,
    allowed_headers: list,
});

impl Wire for ExternalProvider {
    type Message = v1::ExternalProvider;

    fn encode(&self) -> v1::ExternalProvider {
        let who = match self {
            Self::Missing { message } => external_provider::Who::Missing(message.encode()),
            Self::Grpc(service) => external_provider::Who::Grpc(service.encode()),
            Self::Http(check) => external_provider::Who::Http(check.encode()),
        };
        v1::ExternalProvider { who: Some(who) }
    }

    fn decode(message: v1::ExternalProvider) -> Result<Self, InvalidField> {
        let v1::ExternalProvider { who } = message;
        match who.ok_or(InvalidField::new(Problem::Missing))? {
            external_provider::Who::Missing(message) => Ok(Self::Missing { message: message.into() }),
            external_provider::Who::Grpc(service) => Wire::decode(service).map(Self::Grpc),
            external_provider::Who::Http(check) => Wire::decode(check).map(Self::Http),
        }
    }
}

impl Wire for NamePattern {
    type Message = v1::NamePattern;

    fn encode(&self) -> v1::NamePattern {
        let form = match self {
            Self::Exact(name) => name_pattern::Form::Exact(name.encode()),
            Self::Prefix(name) => name_pattern::Form::Prefix(name.encode()),
            Self::Suffix(name) => name_pattern::Form::Suffix(name.encode()),
        };
        v1::NamePattern { form: Some(form) }
    }

    fn decode(message: v1::NamePattern) -> Result<Self, InvalidField> {
        let v1::NamePattern { form } = message;
        Ok(match form.ok_or(InvalidField::new(Problem::Missing))? {
            name_pattern::Form::Exact(name) => Self::Exact(name.into()),
            name_pattern::Form::Prefix(name) => Self::Prefix(name.into()),
            name_pattern::Form::Suffix(name) => Self::Suffix(name.into()),
        })
    }
}

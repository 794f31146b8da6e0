//! Mirrors `palisade_model::external_authorization`.

use palisade_model::external_authorization::{
    CheckBody, CheckCache, CheckService, ExternalAuthorization, ExternalCheck, ExternalProvider, HttpCheck, KeyPart,
    NamePattern,
};

use crate::{
    field::{InvalidField, Problem, Wire, wire_struct},
    proto::v1::{self, FixedKeyPart, external_provider, key_part, name_pattern},
};

wire_struct!(ExternalAuthorization => v1::ExternalAuthorization { key: plain, checks: list });
wire_struct!(ExternalCheck => v1::ExternalCheck {
    provider: plain,
    policies: plain,
    is_dry_run: same,
    asks: required,
    cache: optional,
});
wire_struct!(CheckCache => v1::CheckCache { lifetime: required, key: list });
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

impl Wire for KeyPart {
    type Message = v1::KeyPart;

    fn encode(&self) -> v1::KeyPart {
        let fixed = |part: FixedKeyPart| key_part::Part::Fixed(part.into());
        let part = match self {
            Self::Method => fixed(FixedKeyPart::Method),
            Self::Scheme => fixed(FixedKeyPart::Scheme),
            Self::Host => fixed(FixedKeyPart::Host),
            Self::Path => fixed(FixedKeyPart::Path),
            Self::Query => fixed(FixedKeyPart::Query),
            Self::SourceIp => fixed(FixedKeyPart::SourceIp),
            Self::Header(name) => key_part::Part::Header(name.encode()),
        };
        v1::KeyPart { part: Some(part) }
    }

    fn decode(message: v1::KeyPart) -> Result<Self, InvalidField> {
        let v1::KeyPart { part } = message;
        let value = match part.ok_or(InvalidField::new(Problem::Missing))? {
            key_part::Part::Header(name) => return Ok(Self::Header(name.into())),
            key_part::Part::Fixed(value) => value,
        };
        Ok(match FixedKeyPart::try_from(value) {
            Ok(FixedKeyPart::Method) => Self::Method,
            Ok(FixedKeyPart::Scheme) => Self::Scheme,
            Ok(FixedKeyPart::Host) => Self::Host,
            Ok(FixedKeyPart::Path) => Self::Path,
            Ok(FixedKeyPart::Query) => Self::Query,
            Ok(FixedKeyPart::SourceIp) => Self::SourceIp,
            Ok(FixedKeyPart::Unspecified) | Err(_) => {
                return Err(InvalidField::new(Problem::UnknownValue(value)));
            }
        })
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

//! The grammar of `endpoints`: one source with what holds for all that it yields.

use std::{path::PathBuf, sync::Arc};

use serde_json::json;

use super::{
    cursor::{Cursor, Wrong},
    grammar::labels,
};
use crate::{
    model::{Address, EndpointSource, EndpointSpec, Labels, Origin, SetKind, SourceKind},
    name::{Locality, ServiceName},
    source::{dns_name, document::PartialSource},
};

/// Largest weight of an endpoint; ten million endpoints of it still add up in 64 bits.
const MAX_WEIGHT: u32 = 1_000_000;
/// Largest priority.
const MAX_PRIORITY: u32 = 127;

/// An endpoint as written; what it leaves open is the source's.
struct Written {
    address: Address,
    labels: Labels,
    zone: Option<Arc<str>>,
    region: Option<Arc<str>>,
    weight: Option<u32>,
    priority: Option<u32>,
}

/// One source of endpoints.
pub(super) fn source(at: Cursor<'_, '_, '_>) -> Option<PartialSource> {
    at.scalar_or(word, map)
}

/// An address alone is a fixed list of one; other words are sources of later versions.
fn word(at: Cursor<'_, '_, '_>) -> Option<PartialSource> {
    let place = at.node.map(|node| at.reading.place(node.mark));
    let address = at.scalar("a source of endpoints", json!({ "type": "string" }), |text| match text {
        "control_plane" | "kubernetes" => Err(Wrong::new(
            format!("this build does not have `{text}` yet"),
            "use `static`, `dns` or `file`; nothing runs without what was asked for",
        )),
        _ => text.parse::<Address>().map_err(|_| {
            Wrong::new(
                format!("`{}` is not a source of endpoints", text.escape_debug()),
                "use `IP:PORT`, `{dns: NAME:PORT}`, `{static: [IP:PORT]}`, `{file: PATH}` or `{custom: NAME}`",
            )
        }),
    })?;
    let origin = Origin::File(place?);
    let source = EndpointSource::new(SourceKind::Static(vec![EndpointSpec::new(address)]));
    Some(PartialSource { source, items: vec![origin.clone()], origin })
}

fn map(at: Cursor<'_, '_, '_>) -> Option<PartialSource> {
    at.map("a source of endpoints", |fields| {
        let origin = Origin::File(fields.place());
        let fixed = fields.field("static", "A fixed list of `IP:PORT`, or of maps with `address`.", |at| {
            at.one_or_list("a list of endpoints", endpoint)
        });
        let dns =
            fields.field("dns", "A name to resolve: `NAME:PORT`; `_service._proto.NAME` asks for SRV records.", |at| {
                at.scalar("`NAME:PORT`", json!({ "type": "string" }), |text| dns_name(text).map_err(Wrong::from))
            });
        let file = fields.field("file", "Path of a watched file with a list of endpoints.", |at| at.text("a path"));
        let custom = fields.field("custom", "A source that the application registered, by its name.", |at| {
            at.parsed::<ServiceName>("a name")
        });
        let common = fields.field("labels", "Added to the labels of each endpoint.", labels);
        let zone = fields.field("zone", "For endpoints without a zone of their own.", |at| at.text("a zone"));
        let region =
            fields.field("region", "For endpoints without a zone or region of their own.", |at| at.text("a region"));
        let weight =
            fields.field("weight", "For endpoints without a weight of their own. Default 1; 0 to 1000000.", |at| {
                at.integer(0..=MAX_WEIGHT)
            });
        let priority =
            fields.field("priority", "For endpoints without one of their own. Default 0, used first; to 127.", |at| {
                at.integer(0..=MAX_PRIORITY)
            });
        let kind = fields.field(
            "kind",
            "What the addresses stand for. Default: one resolved address is a `vip`, everything else `replicas`.",
            |at| at.choice("a kind", &[("replicas", SetKind::Replicas), ("vip", SetKind::Vip)], &[]),
        );
        fields.later(&["control_plane", "kubernetes"]);
        fields.exactly_one(&["static", "dns", "file", "custom"]);

        let common = common.map(|set| set.value).unwrap_or_default();
        let (zone, region) = (zone.map(|set| set.value), region.map(|set| set.value));
        let (weight, priority) = (weight.map(|set| set.value), priority.map(|set| set.value));
        let mut items = Vec::new();
        let source = if let Some(fixed) = fixed {
            let spec = |set: crate::source::document::Set<Written>| {
                items.push(set.origin);
                let written = set.value;
                let mut labels = common.clone();
                labels.extend(written.labels);
                EndpointSpec::new(written.address)
                    .labels(labels)
                    .weight(written.weight.or(weight).unwrap_or(1))
                    .priority(written.priority.or(priority).unwrap_or(0))
                    .locality(match (&written.zone, &written.region) {
                        (None, None) => locality(zone.clone(), region.clone()),
                        _ => locality(written.zone, written.region),
                    })
            };
            // What the source says is already in each endpoint: an engine that sees only `EndpointSpec` could not tell
            // a weight of 1 that was written from one that was not.
            let mut source = EndpointSource::new(SourceKind::Static(Vec::new()));
            source.source = SourceKind::Static(fixed.value.into_iter().map(spec).collect());
            source
        } else {
            let kind = dns
                .map(|dns| SourceKind::Dns { name: dns.value.0, port: dns.value.1 })
                .or(file.map(|path| SourceKind::File(PathBuf::from(&*path.value))))
                .or(custom.map(|name| SourceKind::Custom(name.value.as_str().into())))?;
            EndpointSource {
                labels: common,
                locality: locality(zone, region),
                weight,
                priority,
                ..EndpointSource::new(kind)
            }
        };
        Some(PartialSource { source: EndpointSource { kind: kind.map(|set| set.value), ..source }, origin, items })
    })
    .flatten()
}

fn locality(zone: Option<Arc<str>>, region: Option<Arc<str>>) -> Locality {
    Locality { zone: zone.unwrap_or_default(), region: region.unwrap_or_default(), ..Locality::default() }
}

fn endpoint(at: Cursor<'_, '_, '_>) -> Option<Written> {
    at.scalar_or(
        |at| {
            let address = at.parsed::<Address>("an address")?;
            Some(Written { address, labels: Labels::new(), zone: None, region: None, weight: None, priority: None })
        },
        |at| {
            at.map("an address, or a map with `address`", |fields| {
                let address = fields.field("address", "`IP:PORT`.", |at| at.parsed::<Address>("an address"));
                let labels = fields.field("labels", "Its labels.", labels);
                let zone = fields.field("zone", "Its zone.", |at| at.text("a zone"));
                let region = fields.field("region", "Its region.", |at| at.text("a region"));
                let weight =
                    fields.field("weight", "Its share of traffic. Default 1; 0 gets none; to 1000000.", |at| {
                        at.integer(0..=MAX_WEIGHT)
                    });
                let priority =
                    fields.field("priority", "0 is used first. Default 0; to 127.", |at| at.integer(0..=MAX_PRIORITY));
                fields.exactly_one(&["address"]);
                Some(Written {
                    address: address?.value,
                    labels: labels.map(|set| set.value).unwrap_or_default(),
                    zone: zone.map(|set| set.value),
                    region: region.map(|set| set.value),
                    weight: weight.map(|set| set.value),
                    priority: priority.map(|set| set.value),
                })
            })
            .flatten()
        },
    )
}

//! GatewayClass: which Gateways are ours.

use gateway_api::apis::experimental::gatewayclasses::GatewayClass;

use crate::CONTROLLER_NAME;
use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::watch::{Kind, ObjectId, nearest};

/// Whether the Gateways of a class are served here.
pub(crate) fn is_ours(class: &Object<GatewayClass>) -> bool {
    class.value.spec.controller_name == CONTROLLER_NAME
}

/// Follows a Gateway's class. Says why, if the Gateway is not ours.
pub(crate) fn resolve_class(cluster: &Cluster, name: &str, place: &Place) -> Result<(), Box<Diagnostic>> {
    let key = Key::new("", name);
    if let Some(class) = cluster.gateway_classes.get(&key) {
        let controller = class.value.spec.controller_name.as_str();
        return if is_ours(class) {
            Ok(())
        } else {
            Err(reasons::foreign_class(place, name, controller, CONTROLLER_NAME).into())
        };
    }
    let id = ObjectId { kind: Kind::GatewayClass, key };
    if let Some(refused) = cluster.refused.get(&id) {
        return Err(reasons::refused_class(place, name, &refused.location).into());
    }
    let known = cluster.gateway_classes.keys().map(|key| &*key.name);
    Err(reasons::missing_class(place, name, nearest(name, known), CONTROLLER_NAME).into())
}

//! What the tests on the node share.

use std::time::Duration;

use palisade_images::{BuiltImage, Compression, Image};
use palisade_tests::{
    checkout,
    kubernetes::{Node, lacks_for_node},
};
use tokio::sync::OnceCell;

/// Longer than anything here takes that works.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Whether the images of the tests are there.
static LOADED: OnceCell<()> = OnceCell::const_new();

/// The node, with the images that the tests run; `None` where this machine cannot carry one: the test is skipped.
pub(crate) async fn node() -> anyhow::Result<Option<&'static Node>> {
    if let Some(lack) = lacks_for_node() {
        println!("skipped: {lack}");
        return Ok(None);
    }
    let node = Node::shared().await?;
    LOADED.get_or_try_init(async || node.load_built(&images()?).await).await?;
    Ok(Some(node))
}

fn images() -> anyhow::Result<Vec<BuiltImage>> {
    let bookinfo = checkout::binary("bookinfo")?;
    let image = Image::of_program("localhost/bookinfo:1", &bookinfo, "/bookinfo")?;
    Ok(vec![image.build(Compression::None)?])
}

//! What kinds of objects the server has, asked for as little as possible.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Result, bail};
use http::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;

use crate::problem::is_not_found;
use crate::suggest;

/// A kind of objects, as discovery tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
}

impl Resource {
    /// The path of all its objects, or those of a namespace.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    /// `pod/web`, as it is spoken of.
    pub(crate) fn called(&self, name: &str) -> String {
        if self.group.is_empty() {
            format!("{}/{name}", self.singular)
        } else {
            format!("{}.{}/{name}", self.singular, self.group)
        }
    }

    fn answers_to(&self, word: &str) -> bool {
        let (word, group) = word.split_once('.').map_or((word, None), |(w, g)| (w, Some(g)));
        let word = word.to_ascii_lowercase();
        group.is_none_or(|group| group == self.group)
            && (word == self.plural
                || word == self.singular
                || word == self.kind.to_ascii_lowercase()
                || self.short_names.contains(&word))
    }
}

/// The kinds of a server; each group version is asked for when it is first needed.
pub(crate) struct Catalog {
    client: Client,
    known: RefCell<Vec<(String, Rc<Vec<Resource>>)>>,
}

impl Catalog {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, known: RefCell::default() }
    }

    /// The resource of an `apiVersion` and `kind`; nothing when the server has none.
    pub(crate) async fn by_kind(&self, api_version: &str, kind: &str) -> Result<Option<Resource>> {
        let resources = self.group_version(api_version).await?;
        Ok(resources.iter().find(|resource| resource.kind == kind).cloned())
    }

    /// The names of all kinds of an `apiVersion`, for suggestions.
    pub(crate) async fn kinds(&self, api_version: &str) -> Result<Vec<String>> {
        let resources = self.group_version(api_version).await?;
        Ok(resources.iter().map(|resource| resource.kind.clone()).collect())
    }

    /// The resources that a word on the command line means: a name, a short name, or a category.
    pub(crate) async fn by_word(&self, word: &str) -> Result<Vec<Resource>> {
        // Nearly everything anybody asks for is in the core group: one request.
        let core = self.group_version("v1").await?;
        if let Some(resource) = core.iter().find(|resource| resource.answers_to(word)) {
            return Ok(vec![resource.clone()]);
        }
        let mut all: Vec<Resource> = core.to_vec();
        for group in self.client.list_api_groups().await?.groups {
            let Some(version) =
                group.preferred_version.or_else(|| group.versions.into_iter().next())
            else {
                continue;
            };
            all.extend(self.group_version(&version.group_version).await?.iter().cloned());
        }
        if let Some(resource) = all.iter().find(|resource| resource.answers_to(word)) {
            return Ok(vec![resource.clone()]);
        }
        let category: Vec<Resource> = all
            .iter()
            .filter(|resource| resource.categories.iter().any(|category| category == word))
            .cloned()
            .collect();
        if !category.is_empty() {
            return Ok(category);
        }
        let names = all.iter().flat_map(|resource| {
            [resource.plural.as_str(), resource.singular.as_str()]
                .into_iter()
                .chain(resource.short_names.iter().map(String::as_str))
        });
        bail!("the server has no resource type \"{word}\"{}", suggest::hint(word, names));
    }

    async fn group_version(&self, api_version: &str) -> Result<Rc<Vec<Resource>>> {
        let known = self.known.borrow().iter().find(|(known, _)| known == api_version).cloned();
        if let Some((_, resources)) = known {
            return Ok(resources);
        }
        let path = if api_version.contains('/') {
            format!("/apis/{api_version}")
        } else {
            format!("/api/{api_version}")
        };
        #[derive(serde::Deserialize)]
        struct List {
            resources: Vec<APIResource>,
        }
        let request = Request::get(path).body(Vec::new())?;
        let list = match self.client.request::<List>(request).await {
            Ok(list) => list.resources,
            Err(error) if is_not_found(&error) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resources: Rc<Vec<Resource>> = Rc::new(
            list.into_iter()
                .filter(|resource| !resource.name.contains('/'))
                .map(|resource| Resource {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    singular: if resource.singular_name.is_empty() {
                        resource.kind.to_ascii_lowercase()
                    } else {
                        resource.singular_name
                    },
                    kind: resource.kind,
                    plural: resource.name,
                    short_names: resource.short_names.unwrap_or_default(),
                    categories: resource.categories.unwrap_or_default(),
                    namespaced: resource.namespaced,
                })
                .collect(),
        );
        self.known.borrow_mut().push((api_version.to_owned(), Rc::clone(&resources)));
        Ok(resources)
    }
}

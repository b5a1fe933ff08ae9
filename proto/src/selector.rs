//! Label selectors, from their query-string form and from `LabelSelector`.

//! Kubernetes quantities (`100m`, `1Gi`, `1e3`): exact values out of their text.

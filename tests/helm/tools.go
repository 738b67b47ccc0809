//go:build tools

// Package helm holds the versions of the programs and of the schemas that the test of the chart uses.
package helm

import (
	_ "github.com/yannh/kubeconform/cmd/kubeconform"
	_ "helm.sh/helm/v3/cmd/helm"
	_ "sigs.k8s.io/gateway-api/pkg/consts"
)

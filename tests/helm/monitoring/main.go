// Reads manifests from standard input, separated by lines of three dashes, and refuses those of the Prometheus Operator
// that do not decode strictly into its types: its definitions are in no package that kubeconform could read. Prints how
// many it read.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	count := 0
	for _, manifest := range bytes.Split(append([]byte("\n"), input...), []byte("\n---\n")) {
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(manifest, &head); err != nil {
			return err
		}
		var object any
		switch {
		case head.APIVersion != "monitoring.coreos.com/v1":
			continue
		case head.Kind == "ServiceMonitor":
			object = &monitoring.ServiceMonitor{}
		case head.Kind == "PrometheusRule":
			object = &monitoring.PrometheusRule{}
		default:
			return fmt.Errorf("unknown kind %s", head.Kind)
		}
		if err := yaml.UnmarshalStrict(manifest, object); err != nil {
			return fmt.Errorf("%s: %w", head.Kind, err)
		}
		count++
	}
	fmt.Println(count)
	return nil
}

// Package conformance is upstream Kubernetes' end-to-end test suite, cut down to the tests that an
// executor of pods is measured by. The suite, its set-up and its tests are imported unmodified; only
// the list of imports is shorter than that of upstream's e2e.test, which takes far longer to link.
// "make conformance" runs it, see docs/conformance.md.
package conformance

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"k8s.io/kubernetes/test/e2e"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	"k8s.io/kubernetes/test/e2e/framework/testfiles"
	testingmanifests "k8s.io/kubernetes/test/e2e/testing-manifests"
	"k8s.io/kubernetes/test/fixtures"

	_ "k8s.io/kubernetes/test/e2e/feature" // the names of features, which labels of tests refer to

	_ "k8s.io/kubernetes/test/e2e/common"  // [NodeConformance], most of it
	_ "k8s.io/kubernetes/test/e2e/kubectl" // kubectl logs, exec, port-forward, debug
	_ "k8s.io/kubernetes/test/e2e/node"    // sig-node's tests of pods through the API
	_ "k8s.io/kubernetes/test/e2e/storage" // sig-storage's, of which those of volumes without a driver apply

	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"   // what is logged when a test fails
	_ "k8s.io/kubernetes/test/e2e/framework/metrics/init" // ditto
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"    // waits for nodes between tests
	_ "k8s.io/kubernetes/test/utils/ktesting/format"      // prints objects as YAML
)

func TestMain(m *testing.M) {
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected arguments: %q\n", flag.Args())
		os.Exit(2)
	}
	testfiles.AddFileSource(testingmanifests.GetE2ETestingManifestsFS())
	testfiles.AddFileSource(fixtures.GetTestFixturesFS())
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

// TestConformance runs the suite.
func TestConformance(t *testing.T) {
	e2e.RunE2ETests(t)
}

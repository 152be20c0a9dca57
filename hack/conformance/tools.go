//go:build tools

package conformance

// Programs of upstream that the suite needs beside itself; build.sh builds them.
import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"         // runs the suite in several processes
	_ "k8s.io/kubernetes/test/images/agnhost"    // what most test images consist of
	_ "k8s.io/kubernetes/test/images/nonewprivs" // the program of the image nonewprivs
)

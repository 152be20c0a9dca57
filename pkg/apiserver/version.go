package apiserver

import (
	"strconv"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	basecompatibility "k8s.io/component-base/compatibility"
	logsapi "k8s.io/component-base/logs/api/v1"
	baseversion "k8s.io/component-base/version"

	"arhat.dev/aranya/pkg/version"
)

// newComponentRegistry returns the versions and feature gates of the Kubernetes libraries in this
// program. (The registry that the libraries provide takes the program's own version for theirs.)
func newComponentRegistry() basecompatibility.ComponentGlobalsRegistry {
	registry := basecompatibility.NewComponentGlobalsRegistry()
	utilruntime.Must(registry.Register(basecompatibility.DefaultKubeComponent,
		basecompatibility.NewEffectiveVersionFromString(baseversion.DefaultKubeBinaryVersion, "", ""),
		utilfeature.DefaultMutableFeatureGate))
	return registry
}

func init() {
	utilruntime.Must(logsapi.AddFeatureGates(utilfeature.DefaultMutableFeatureGate))
}

// effectiveVersion answers /version with aranya's version instead of that of the libraries, which
// still decides what they enable (CEL functions in admission policies, for example).
type effectiveVersion struct {
	basecompatibility.EffectiveVersion
}

// Info implements EffectiveVersion.
func (v effectiveVersion) Info() *apimachineryversion.Info {
	info := baseversion.Get()
	info.GitVersion = version.String()
	info.Major, info.Minor, info.GitCommit, info.GitTreeState = "0", "0", "", ""
	if own, err := utilversion.ParseSemantic(info.GitVersion); err == nil {
		info.Major = strconv.FormatUint(uint64(own.Major()), 10)
		info.Minor = strconv.FormatUint(uint64(own.Minor()), 10)
	}
	return &info
}

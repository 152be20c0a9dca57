package apiserver

import (
	"strconv"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
	baseversion "k8s.io/component-base/version"

	"arhat.dev/aranya/pkg/version"
)

// componentName is the name of aranya in flags that speak of several components.
const componentName = "aranya"

// newComponentRegistry returns the versions and feature gates of this program: those of the
// Kubernetes libraries, under the name they have everywhere, and aranya's own. (The registry that the
// libraries provide takes the version of the program for that of Kubernetes.)
func newComponentRegistry() basecompatibility.ComponentGlobalsRegistry {
	registry := basecompatibility.NewComponentGlobalsRegistry()
	utilruntime.Must(registry.Register(basecompatibility.DefaultKubeComponent,
		basecompatibility.NewEffectiveVersionFromString(baseversion.DefaultKubeBinaryVersion, "", ""),
		utilfeature.DefaultMutableFeatureGate))

	own, err := utilversion.ParseSemantic(version.String())
	if err != nil {
		own = utilversion.MustParseSemantic("0.0.0")
	}
	utilruntime.Must(registry.Register(componentName,
		basecompatibility.NewEffectiveVersion(own, false, own.WithPatch(0), own.WithPatch(0)),
		featuregate.NewVersionedFeatureGate(utilversion.MajorMinor(own.Major(), own.Minor()))))
	return registry
}

func init() {
	utilruntime.Must(logsapi.AddFeatureGates(utilfeature.DefaultMutableFeatureGate))
}

// effectiveVersion answers /version with aranya's version instead of that of the libraries.
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

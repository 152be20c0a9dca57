// Package version says which version of aranya a program is. All programs of the project are
// versioned together. Nothing else belongs here.
package version

import (
	"runtime/debug"
	"sync"
)

// gitVersion is set when a program is built:
//
//	go build -ldflags "-X arhat.dev/aranya/pkg/version.gitVersion=v1.2.3"
var gitVersion string

// development is the version of a build that was not told its own, followed by its commit.
const development = "v0.0.0-dev"

// String returns the version of this program as semantic version with a leading "v".
func String() string {
	if gitVersion != "" {
		return gitVersion
	}
	return built()
}

// built reads what the program has about itself once: it is a long text.
var built = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return development
	}
	return fromBuildInfo(info)
})

func fromBuildInfo(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return development + "+" + s.Value[:12]
		}
	}
	return development
}

package version

import (
	"runtime/debug"
	"testing"
)

func TestFromBuildInfo(t *testing.T) {
	for name, test := range map[string]struct {
		info debug.BuildInfo
		want string
	}{
		"nothing known": {want: "v0.0.0-dev"},
		"go build of a working tree without tags": {
			info: debug.BuildInfo{
				Main:     debug.Module{Version: "(devel)"},
				Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}},
			},
			want: "v0.0.0-dev+0123456789ab",
		},
		"go install of a release": {
			info: debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}},
			want: "v1.2.3",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fromBuildInfo(&test.info); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestStampedVersionWins(t *testing.T) {
	gitVersion = "v9.8.7"
	t.Cleanup(func() { gitVersion = "" })
	if got := String(); got != "v9.8.7" {
		t.Errorf("got %q, want the version set by the linker", got)
	}
}

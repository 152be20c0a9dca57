package process

import (
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

// member finds an account that the device has in a group beside its own.
func member(t *testing.T) (account *user.User, group int64) {
	t.Helper()
	data, err := os.ReadFile("/etc/passwd")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, ":")
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		ids, err := account.GroupIds()
		if i := slices.IndexFunc(ids, func(id string) bool { return id != account.Gid }); err == nil && i >= 0 {
			group, err := strconv.ParseInt(ids[i], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return account, group
		}
	}
	t.Skip("no account of this machine has further groups")
	return nil, 0
}

func TestSupplementalGroups(t *testing.T) {
	needRoot(t)
	account, group := member(t)
	uid, err := strconv.ParseInt(account.Uid, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseInt(account.Gid, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	const requested, otherGroup = 1<<32 - 10, 1<<32 - 11
	byID := func() *runtimeapi.LinuxContainerSecurityContext {
		return &runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: uid}, SupplementalGroups: []int64{requested}}
	}
	for name, tt := range map[string]struct {
		change func(*runtimeapi.LinuxContainerSecurityContext)
		member bool
	}{
		"by id": {func(*runtimeapi.LinuxContainerSecurityContext) {}, true},
		"by name": {func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsUser, sc.RunAsUsername = nil, account.Username
		}, true},
		"in another group": {func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.RunAsGroup = &runtimeapi.Int64Value{Value: otherGroup}
		}, true},
		"requested as well": {func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.SupplementalGroups = append(sc.SupplementalGroups, group)
		}, true},
		"strict": {func(sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
		}, false},
		"without an account": {func(sc *runtimeapi.LinuxContainerSecurityContext) { sc.RunAsUser.Value = 1<<32 - 12 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			sc, spec := byID(), &shim.Spec{}
			tt.change(sc)
			config := &runtimeapi.ContainerConfig{Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: sc}}
			if _, err := (&Runtime{}).userOf(config, spec); err != nil {
				t.Fatal(err)
			}
			got := spec.User.Groups
			if !slices.Contains(got, requested) || slices.Contains(got, uint32(group)) != tt.member {
				t.Errorf("got groups %v, want %d, and that %d is one is %t", got, requested, group, tt.member)
			}
			if sc.RunAsGroup != nil && slices.Contains(got, uint32(gid)) {
				t.Errorf("got groups %v, with %d that runAsGroup replaces", got, gid)
			}
			slices.Sort(got)
			if len(slices.Compact(got)) != len(spec.User.Groups) {
				t.Errorf("a group is there twice: %v", spec.User.Groups)
			}
		})
	}
}

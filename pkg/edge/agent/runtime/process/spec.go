package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/runtime/process/shim"
)

// defaultPath is the PATH of a container that sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxSpec bounds command line and environment in bytes; the kernel's own bound is lower or equal.
const maxSpec = 2 << 20

// specOf translates a container's configuration, or says why it cannot work here.
func (r *Runtime) specOf(s *sandbox, config *runtimeapi.ContainerConfig) (*shim.Spec, error) {
	args := slices.Concat(config.Command, config.Args)
	if len(args) == 0 || args[0] == "" {
		return nil, fmt.Errorf("the image %q has no command of its own: set the container's command", HostImage)
	}
	spec := &shim.Spec{
		Args: args, Cwd: config.WorkingDir, TTY: config.Tty, Stdin: config.Stdin, StdinOnce: config.StdinOnce,
		NoNewPrivs: config.GetLinux().GetSecurityContext().GetNoNewPrivs(),
	}
	if spec.Cwd == "" {
		spec.Cwd = "/"
	}
	if !filepath.IsAbs(spec.Cwd) {
		return nil, fmt.Errorf("the working directory %q is not an absolute path", spec.Cwd)
	}
	if config.LogPath != "" && s.config.LogDirectory != "" {
		spec.LogPath = filepath.Join(s.config.LogDirectory, config.LogPath)
	}
	account, err := r.userOf(config, spec)
	if err != nil {
		return nil, err
	}
	spec.Env = environment(config, s.config.Hostname, account)
	if err := r.mountsOf(config, spec); err != nil {
		return nil, err
	}
	if resources := config.GetLinux().GetResources(); resources != nil && resources.OomScoreAdj != 0 {
		adj := int(resources.OomScoreAdj)
		spec.OOMScoreAdj = &adj
	}
	size := 0
	for _, text := range slices.Concat(spec.Args, spec.Env) {
		size += len(text) + 1
		if strings.ContainsRune(text, 0) {
			return nil, errors.New("command line and environment cannot contain NUL")
		}
	}
	if size > maxSpec {
		return nil, fmt.Errorf("command line and environment have %d bytes, at most %d are possible", size, maxSpec)
	}
	return spec, nil
}

// environment is what the configuration says, and what every program expects to find.
func environment(config *runtimeapi.ContainerConfig, hostname string, account *user.User) []string {
	set := map[string]bool{}
	env := make([]string, 0, len(config.Envs)+4)
	for _, e := range config.Envs {
		set[e.Key] = true
		env = append(env, e.Key+"="+string(e.Value))
	}
	defaults := [][2]string{{"PATH", defaultPath}, {"HOSTNAME", hostname}, {"HOME", "/"}}
	if account != nil && account.HomeDir != "" {
		defaults[2][1] = account.HomeDir
	}
	if config.Tty {
		defaults = append(defaults, [2]string{"TERM", "xterm"})
	}
	for _, d := range defaults {
		if !set[d[0]] && d[1] != "" {
			env = append(env, d[0]+"="+d[1])
		}
	}
	return env
}

// userOf sets the user that the container runs as. Only root can run as somebody else.
func (r *Runtime) userOf(config *runtimeapi.ContainerConfig, spec *shim.Spec) (*user.User, error) {
	sc := config.GetLinux().GetSecurityContext()
	uid, gid := int64(os.Geteuid()), int64(os.Getegid())
	var account *user.User
	switch {
	case sc.GetRunAsUser() != nil:
		uid = sc.GetRunAsUser().GetValue()
		account, _ = user.LookupId(strconv.FormatInt(uid, 10))
	case sc.GetRunAsUsername() != "":
		found, err := user.Lookup(sc.GetRunAsUsername())
		if err != nil {
			return nil, fmt.Errorf("the device has no user %q", sc.GetRunAsUsername())
		}
		account = found
		if uid, err = strconv.ParseInt(found.Uid, 10, 64); err != nil {
			return nil, fmt.Errorf("the user %q has the id %q", found.Username, found.Uid)
		}
	default:
		account, _ = user.LookupId(strconv.FormatInt(uid, 10))
	}
	other := uid != int64(os.Geteuid())
	if other && account != nil {
		if primary, err := strconv.ParseInt(account.Gid, 10, 64); err == nil {
			gid = primary
		}
	} else if other {
		gid = 0
	}
	if sc.GetRunAsGroup() != nil {
		gid = sc.GetRunAsGroup().GetValue()
	}
	for _, id := range append([]int64{uid, gid}, sc.GetSupplementalGroups()...) {
		if id < 0 || id > 1<<32-2 {
			return nil, fmt.Errorf("%d is not a user or group id", id)
		}
	}
	if os.Geteuid() != 0 {
		if other || gid != int64(os.Getegid()) {
			return nil, fmt.Errorf("the agent runs as user %d and group %d and cannot run a container as %d and %d: leave out runAsUser and runAsGroup, or run arhat as root", os.Geteuid(), os.Getegid(), uid, gid)
		}
		return account, nil // supplemental groups (fsGroup) cannot be added, and are not needed
	}
	groups := slices.Clone(sc.GetSupplementalGroups())
	if account != nil && sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge {
		own, err := furtherGroups(account)
		if err != nil {
			return nil, err
		}
		groups = append(groups, own...)
	}
	spec.User = &shim.User{UID: uint32(uid), GID: uint32(gid)}
	for _, g := range groups {
		if !slices.Contains(spec.User.Groups, uint32(g)) {
			spec.User.Groups = append(spec.User.Groups, uint32(g))
		}
	}
	return account, nil
}

// furtherGroups are those that the device has an account in beside the primary one, for which runAsGroup
// may put another.
func furtherGroups(account *user.User) (groups []int64, err error) {
	ids, err := account.GroupIds()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a device without /etc/group
	} else if err != nil {
		return nil, fmt.Errorf("cannot find out the groups of the user %q: %w", account.Username, err)
	}
	for _, id := range ids {
		if id == account.Gid {
			continue
		}
		group, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("the user %q is in a group with the id %q", account.Username, id)
		}
		groups = append(groups, int64(group))
	}
	return groups, nil
}

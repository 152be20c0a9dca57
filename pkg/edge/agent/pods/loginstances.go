package pods

import (
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
	"arhat.dev/aranya/pkg/edge/agent/pods/state"
)

// logInstance is the log of one instance of a container. The runtime may not know the instance any more,
// after a reboot or because somebody has removed it: id is empty then.
type logInstance struct {
	number int
	path   string
	id     string
	ended  bool
}

// logInstances lists the logs of a container, newest first: those of instances that the runtime has, and
// those that are on the disk alone.
func (m *Manager) logInstances(pod *v1.Pod, container string, view *state.Pod) []logInstance {
	var list []logInstance
	for _, c := range view.Containers {
		if c.Name == container && !c.StartedAt.IsZero() {
			list = append(list, logInstance{number: c.RestartCount, path: c.LogPath, id: c.ID, ended: c.Exited()})
		}
	}
	dir := filepath.Join(podutil.LogDir(m.cfg.LogDir, pod.Namespace, pod.Name, string(pod.UID)), container)
	entries, _ := os.ReadDir(dir) // not there before the first start
	for _, entry := range entries {
		name, isLog := strings.CutSuffix(entry.Name(), ".log")
		number, err := strconv.Atoi(name)
		known := func(c *state.Container) bool { return c.Name == container && c.RestartCount == number }
		if isLog && err == nil && !slices.ContainsFunc(view.Containers, known) {
			list = append(list, logInstance{number: number, path: filepath.Join(dir, entry.Name()), ended: true})
		}
	}
	slices.SortStableFunc(list, func(a, b logInstance) int { return cmp.Compare(b.number, a.number) })
	return list
}

// pruneLogs removes the logs of instances that the runtime does not know, but for the newest ones. Those of
// the others go with their instance.
func (p *pass) pruneLogs(keep int) error {
	var errs []error
	for c := range podutil.Containers(p.pod) {
		for i, instance := range p.w.m.logInstances(p.pod, c.Name, p.st) {
			if i >= keep && instance.id == "" {
				errs = append(errs, removeLogs(instance.path))
			}
		}
	}
	return errors.Join(errs...)
}

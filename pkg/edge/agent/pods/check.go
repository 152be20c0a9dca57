package pods

import (
	"errors"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"arhat.dev/aranya/pkg/edge/agent/pods/podutil"
)

// maxContainers bounds the containers of a pod, of all kinds together.
const maxContainers = 500

// check refuses what the API server would never let through, but a server that is broken might: names that
// would become paths, and numbers that make no sense. It says nothing about what the pod wants.
func check(pod *v1.Pod) error {
	if problems := validation.IsDNS1123Label(pod.Namespace); len(problems) > 0 {
		return fmt.Errorf("the namespace %q is not valid: %s", pod.Namespace, strings.Join(problems, ", "))
	}
	if problems := validation.IsDNS1123Subdomain(pod.Name); len(problems) > 0 {
		return fmt.Errorf("the name %q is not valid: %s", pod.Name, strings.Join(problems, ", "))
	}
	if len(pod.Spec.Containers) == 0 {
		return errors.New("there are no containers")
	}
	names := map[string]bool{}
	for c := range podutil.Containers(pod) {
		if len(validation.IsDNS1123Label(c.Name)) > 0 || names[c.Name] {
			return fmt.Errorf("the container name %q is used twice, or is not a DNS label", c.Name)
		}
		if len(names) >= maxContainers {
			return fmt.Errorf("there are more than %d containers", maxContainers)
		}
		if err := checkProbes(c); err != nil {
			return err
		}
		names[c.Name] = true
	}
	volumes := map[string]bool{}
	for i := range pod.Spec.Volumes {
		name := pod.Spec.Volumes[i].Name
		if len(validation.IsDNS1123Label(name)) > 0 || volumes[name] {
			return fmt.Errorf("the volume name %q is used twice, or is not a DNS label", name)
		}
		volumes[name] = true
	}
	return nil
}

// checkProbes refuses numbers that validation in the cluster refuses.
func checkProbes(c *v1.Container) error {
	for name, p := range map[string]*v1.Probe{"startup": c.StartupProbe, "readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
		if p == nil {
			continue
		}
		if p.PeriodSeconds < 1 || p.TimeoutSeconds < 0 || p.InitialDelaySeconds < 0 || p.FailureThreshold < 0 || p.SuccessThreshold < 0 {
			return fmt.Errorf("the %s probe of container %q has no period, or a negative number", name, c.Name)
		}
	}
	return nil
}

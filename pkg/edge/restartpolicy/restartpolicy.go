// Package restartpolicy says which containers of a pod are started again. The agent goes by it, and the
// controllers, as kube-apiserver takes no status by which another one has been.
package restartpolicy

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// restartRule returns the first rule of the container that is about this exit code, or nil.
func restartRule(c *v1.Container, exitCode int32) *v1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		codes := c.RestartPolicyRules[i].ExitCodes
		if codes == nil {
			continue
		}
		in := slices.Contains(codes.Values, exitCode)
		if (codes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn && in) || (codes.Operator == v1.ContainerRestartRuleOnExitCodesOpNotIn && !in) {
			return &c.RestartPolicyRules[i]
		}
	}
	return nil
}

// RestartsAll tells whether all containers of the pod start anew when this one has exited with the code.
func RestartsAll(c *v1.Container, exitCode int32) bool {
	rule := restartRule(c, exitCode)
	return rule != nil && rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
}

// MayRestartAll tells whether there is a container whose exit can make all containers of the pod start anew.
func MayRestartAll(pod *v1.Pod) bool {
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if slices.ContainsFunc(containers[i].RestartPolicyRules, func(r v1.ContainerRestartRule) bool {
				return r.Action == v1.ContainerRestartRuleActionRestartAllContainers
			}) {
				return true
			}
		}
	}
	return false
}

// ShouldRestart tells whether a container that exited with the code runs again under the restart
// policies of the pod and of the container.
func ShouldRestart(pod *v1.Pod, c *v1.Container, exitCode int32) bool {
	if rule := restartRule(c, exitCode); rule != nil {
		return rule.Action == v1.ContainerRestartRuleActionRestart || rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
	}
	switch policyOf(pod, c) {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// policyOf is the restart policy of a container: its own, or else the pod's.
func policyOf(pod *v1.Pod, c *v1.Container) v1.RestartPolicy {
	if c.RestartPolicy != nil {
		return v1.RestartPolicy(*c.RestartPolicy)
	}
	return pod.Spec.RestartPolicy
}

// MayEnd tells whether a pod may come to its own end: by how a container exits, or as its time is up.
func MayEnd(pod *v1.Pod) bool {
	hasPolicy := func(containers []v1.Container, policies ...v1.RestartPolicy) bool {
		return slices.ContainsFunc(containers, func(c v1.Container) bool { return slices.Contains(policies, policyOf(pod, &c)) })
	}
	return pod.Spec.ActiveDeadlineSeconds != nil || hasPolicy(pod.Spec.Containers, v1.RestartPolicyNever, v1.RestartPolicyOnFailure) ||
		hasPolicy(pod.Spec.InitContainers, v1.RestartPolicyNever) // one that fails ends the pod, one that succeeds does not
}

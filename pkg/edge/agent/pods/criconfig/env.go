package criconfig

import (
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// environment returns the container's variables in the order they are declared, each once with its
// last value. References to variables declared before are expanded.
func environment(pod *v1.Pod, c *v1.Container, node *Node, podIPs []string, files Files) ([]*runtimeapi.KeyValue, error) {
	values := make(map[string]string, len(c.Env))
	var order []string
	for i := range c.Env {
		env := &c.Env[i]
		value, err := envValue(pod, c, node, podIPs, files, env, values)
		if errors.Is(err, errNoValue) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", env.Name, err)
		}
		if _, ok := values[env.Name]; !ok {
			order = append(order, env.Name)
		}
		values[env.Name] = value
	}
	if len(c.EnvFrom) > 0 {
		return nil, errors.New("envFrom has not been resolved by the cloud")
	}
	result := make([]*runtimeapi.KeyValue, len(order))
	for i, name := range order {
		result[i] = &runtimeapi.KeyValue{Key: name, Value: []byte(values[name])}
	}
	return result, nil
}

func envValue(pod *v1.Pod, c *v1.Container, node *Node, podIPs []string, files Files, env *v1.EnvVar, values map[string]string) (string, error) {
	source := env.ValueFrom
	switch {
	case env.Value != "" || source == nil:
		return expand(env.Value, lookup(values)), nil
	case source.FieldRef != nil:
		return fieldValue(pod, node, podIPs, source.FieldRef.FieldPath)
	case source.ResourceFieldRef != nil:
		target := c
		if name := source.ResourceFieldRef.ContainerName; name != "" && name != c.Name {
			if target = findContainer(pod, name); target == nil {
				return "", fmt.Errorf("container %s not found", name)
			}
		}
		return resourceValue(pod, target, node, source.ResourceFieldRef)
	case source.FileKeyRef != nil:
		return fileValue(files, source.FileKeyRef)
	}
	return "", errors.New("its source has not been resolved by the cloud")
}

func findContainer(pod *v1.Pod, name string) *v1.Container {
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if containers[i].Name == name {
				return &containers[i]
			}
		}
	}
	return nil
}

// envMap is an environment by name.
func envMap(envs []*runtimeapi.KeyValue) map[string]string {
	m := make(map[string]string, len(envs))
	for _, env := range envs {
		m[env.Key] = string(env.Value)
	}
	return m
}

// ExpandStatic expands references in a command that is run in a container beside its own. As with the
// kubelet, variables whose value comes from elsewhere are empty there.
func ExpandStatic(command []string, env []v1.EnvVar) []string {
	values := make(map[string]string, len(env))
	for i := range env {
		values[env[i].Name] = env[i].Value
	}
	return expandAll(command, values)
}

// expandAll expands references in a command or its arguments.
func expandAll(args []string, envs map[string]string) []string {
	var out []string
	for _, arg := range args {
		out = append(out, expand(arg, lookup(envs)))
	}
	return out
}

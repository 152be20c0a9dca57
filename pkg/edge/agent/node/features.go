package node

// declaredFeatures are those features of Kubernetes that a Node has to declare before the scheduler brings
// pods to it that need them, or the API lets such pods be changed. They are the ones of
// k8s.io/component-helpers/nodedeclaredfeatures that the agent has, sorted.
var declaredFeatures = []string{
	"InPlacePodLevelResourcesVerticalScaling",
	"InPlacePodVerticalScalingInitContainers",
	"RestartAllContainersOnContainerExits",
}

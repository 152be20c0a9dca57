package config

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// verbosities maps levels to those of klog.
var verbosities = map[string]int{"error": -1, "info": 2, "debug": 4, "trace": 6}

// Verbosity is the klog verbosity of the level; negative means errors only.
func (l *Logging) Verbosity() int {
	return verbosities[l.Level]
}

// MaxBytes is MaxSize in bytes. The configuration must be valid.
func (f *LoggingFile) MaxBytes() int64 {
	q := resource.MustParse(f.MaxSize)
	return q.Value()
}

// MaxBytes is MaxPayload in bytes, 0 if it is not set or not valid.
func (m *MQTT) MaxBytes() int64 {
	q, err := resource.ParseQuantity(m.MaxPayload)
	if err != nil {
		return 0
	}
	return q.Value()
}

// List is the reserved part of each resource. The configuration must be valid.
func (r *Reserved) List() v1.ResourceList {
	return v1.ResourceList{
		v1.ResourceCPU:              resource.MustParse(r.CPU),
		v1.ResourceMemory:           resource.MustParse(r.Memory),
		v1.ResourceEphemeralStorage: resource.MustParse(r.EphemeralStorage),
	}
}

// MinimumGCAge is ImageMinimumGCAge. The configuration must be valid, as for the others.
func (h *Housekeeping) MinimumGCAge() time.Duration { return duration(h.ImageMinimumGCAge) }

// MaximumGCAge is ImageMaximumGCAge.
func (h *Housekeeping) MaximumGCAge() time.Duration { return duration(h.ImageMaximumGCAge) }

// LogMaxBytes is ContainerLogMaxSize in bytes.
func (h *Housekeeping) LogMaxBytes() int64 {
	q := resource.MustParse(h.ContainerLogMaxSize)
	return q.Value()
}

// duration is 0 for what is not one, which validation has ruled out.
func duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0
	}
	return d
}

// Finish applies defaults and validates, which is how every configuration is made ready for use.
func (c *Configuration) Finish() error {
	c.Default()
	if err := c.Validate(); err != nil {
		return fmt.Errorf("the configuration is not valid: %w", err)
	}
	return nil
}

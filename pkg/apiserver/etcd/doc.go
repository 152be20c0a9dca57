// Package etcd runs aranya's own etcd inside the process. What is stored there is the business of the
// packages that store it.
package etcd

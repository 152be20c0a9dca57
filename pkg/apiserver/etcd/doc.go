// Package etcd runs aranya's own etcd inside the process and makes clients for an etcd wherever it
// runs. What is stored there is the business of the packages that store it.
package etcd

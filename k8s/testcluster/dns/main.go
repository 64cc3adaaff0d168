// CoreDNS with the plugins that answer for a cluster's Services, those that the Gateway API's conformance suite
// configures (forward, whoami), and none that talk to clouds.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/whoami"
)

func init() {
	// In the order in which a query passes through them.
	dnsserver.Directives = []string{"health", "ready", "errors", "log", "cache", "loadbalance", "kubernetes", "forward", "whoami"}
}

func main() { coremain.Run() }

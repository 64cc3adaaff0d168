{{- /* The values, set in the DaemonSet of k8s/base. */ -}}
{{- define "understudy.DaemonSet" }}
{{- $values := .root.Values }}
{{- $pod := .object.spec.template }}
{{- $spec := $pod.spec }}
{{- $proxy := index $spec.containers 0 }}
{{- $controller := index $spec.containers 1 }}
{{- range $spec.containers }}
{{- $_ := set . "image" (printf "%s:%s" $values.image.repository ($values.image.tag | default $.root.Chart.AppVersion)) }}
{{- $_ := set . "imagePullPolicy" $values.image.pullPolicy }}
{{- $own := get $values .name }}
{{- if $own.resources }}
{{- $_ := set . "resources" $own.resources }}
{{- end }}
{{- if $values.logLevel }}
{{- $level := dict "name" "RUST_LOG" "value" (printf "%s,pingora_core=off,pingora_proxy=off,notify=warn" $values.logLevel) }}
{{- $_ := set . "env" (append (.env | default list) $level) }}
{{- end }}
{{- end }}
{{- with $values.drainDelay }}
{{- $args := list }}
{{- range $proxy.args }}
{{- $args = append $args (ternary (printf "--drain-delay=%s" $values.drainDelay) . (hasPrefix "--drain-delay=" .)) }}
{{- end }}
{{- $_ := set $proxy "args" $args }}
{{- end }}
{{- with $values.terminationGracePeriodSeconds }}
{{- $_ := set $spec "terminationGracePeriodSeconds" . }}
{{- end }}
{{- with $values.imagePullSecrets }}
{{- $_ := set $spec "imagePullSecrets" . }}
{{- end }}
{{- if not (kindIs "invalid" $values.nodeSelector) }}
{{- $_ := set $spec "nodeSelector" $values.nodeSelector }}
{{- end }}
{{- if not (kindIs "invalid" $values.tolerations) }}
{{- $_ := set $spec "tolerations" $values.tolerations }}
{{- end }}
{{- with $values.priorityClassName }}
{{- $_ := set $spec "priorityClassName" . }}
{{- end }}
{{- if eq $values.gateways "host" }}
{{- include "understudy.hostPorts" (dict "pod" $pod "proxy" $proxy "controller" $controller) }}
{{- end }}
{{- $_ := set $pod.metadata "annotations" (merge (deepCopy $values.podAnnotations) $pod.metadata.annotations) }}
{{- $_ := set $proxy "args" (concat $proxy.args $values.proxy.extraArgs) }}
{{- $_ := set $controller "args" (concat $controller.args $values.controller.extraArgs) }}
{{- end }}

{{- /* The same as k8s/overlays/host-ports, which says why. */ -}}
{{- define "understudy.hostPorts" }}
{{- $_ := set .pod.spec "hostNetwork" true }}
{{- $_ := set .pod.spec "dnsPolicy" "ClusterFirstWithHostNet" }}
{{- $_ := set .proxy.securityContext.capabilities "add" (list "NET_BIND_SERVICE") }}
{{- $args := list }}
{{- range .proxy.args }}
{{- $args = append $args (ternary "--admin=127.0.0.1:19000" . (hasPrefix "--admin=" .)) }}
{{- end }}
{{- $_ := set .proxy "args" (append $args "--reuse-port") }}
{{- $args = list }}
{{- range .controller.args }}
{{- if not (hasPrefix "--health=" .) }}
{{- $args = append $args (ternary "--gateways=host" . (hasPrefix "--gateways=" .)) }}
{{- end }}
{{- end }}
{{- $_ := set .controller "args" $args }}
{{- $probe := dict "exec" (dict "command" (list "/understudy" "ready" "--state=/state")) }}
{{- $probe = merge $probe (dict "periodSeconds" 2 "failureThreshold" 2 "timeoutSeconds" 5) }}
{{- $_ := set .proxy "readinessProbe" $probe }}
{{- $_ := unset .controller "readinessProbe" }}
{{- range list .proxy .controller }}
{{- $_ := unset . "livenessProbe" }}
{{- $_ := unset . "ports" }}
{{- end }}
{{- range list "prometheus.io/scrape" "prometheus.io/port" }}
{{- $_ := unset $.pod.metadata.annotations . }}
{{- end }}
{{- end }}

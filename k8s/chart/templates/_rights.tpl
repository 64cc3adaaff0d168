{{- define "understudy.ServiceAccount" }}{{ end }}

{{- define "understudy.PriorityClass" }}{{ end }}

{{- define "understudy.Role" }}{{ end }}

{{- /* With host ports Services and their endpoints are nobody's to write. */ -}}
{{- define "understudy.ClusterRole" }}
{{- if eq .root.Values.gateways "host" }}
{{- $rules := list }}
{{- range .object.rules }}
{{- if not (and (has "delete" .verbs) (or (has "services" .resources) (has "endpointslices" .resources))) }}
{{- $rules = append $rules . }}
{{- end }}
{{- end }}
{{- $_ := set .object "rules" $rules }}
{{- end }}
{{- end }}

{{- define "understudy.ClusterRoleBinding" }}
{{- range .object.subjects }}
{{- $_ := set . "namespace" $.root.Release.Namespace }}
{{- end }}
{{- end }}

{{- define "understudy.RoleBinding" }}
{{- include "understudy.ClusterRoleBinding" . }}
{{- end }}

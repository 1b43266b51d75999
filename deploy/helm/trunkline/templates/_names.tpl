{{/* Labels of an object: dict "at" $ "name" NAME "component" COMPONENT */}}
{{- define "trunkline.labels" -}}
app.kubernetes.io/name: {{ .name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/part-of: trunkline
app.kubernetes.io/instance: {{ .at.Release.Name }}
app.kubernetes.io/managed-by: {{ .at.Release.Service }}
helm.sh/chart: {{ .at.Chart.Name }}-{{ .at.Chart.Version }}
{{- end }}

{{/* What selects the pods of a component: dict "name" NAME "component" COMPONENT */}}
{{- define "trunkline.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The settings that nodes and balancers share, as YAML. */}}
{{- define "trunkline.settings" -}}
{{- $made := dict
  "TRUNKLINE_LOG_FORMAT" "json"
  "TRUNKLINE_SERVER_PORT" "3001"
  "TRUNKLINE_SERVER_DRAIN_MS" "20s"
  "TRUNKLINE_SERVER_SHUTDOWN_DEADLINE_MS" "45s"
  "TRUNKLINE_SERVER_TRUSTED_PROXIES" "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"
  "TRUNKLINE_BALANCER_MODE" .Values.balancer.mode
  "TRUNKLINE_BALANCER_HOST" "0.0.0.0"
  "TRUNKLINE_BALANCER_PORT" "8080"
  "TRUNKLINE_BALANCER_ADMIN_HOST" "0.0.0.0"
  "TRUNKLINE_BALANCER_ADMIN_PORT" "8081"
  "TRUNKLINE_BALANCER_DRAIN_MS" "45s"
  "TRUNKLINE_BALANCER_KUBERNETES" (printf "%s-nodes:http" .Values.name) -}}
{{- if .Values.nats.enabled }}{{ $_ := set $made "TRUNKLINE_BUS_REPLICAS" (toString .Values.nats.replicas) }}{{ end -}}
{{- if .Values.traefik.enabled }}{{ $_ := set $made "TRUNKLINE_BALANCER_STICKY_COOKIE" .Values.traefik.cookie }}{{ end -}}
{{- range $name, $value := .Values.settings -}}
{{- if has $name (list "TRUNKLINE_SERVER_PORT" "TRUNKLINE_BALANCER_PORT" "TRUNKLINE_BALANCER_ADMIN_PORT") -}}
{{- fail (printf "settings.%s cannot be set: containers, Services and probes have the chart's port" $name) -}}
{{- end -}}
{{- if eq $name "TRUNKLINE_BALANCER_MODE" }}{{ fail "settings.TRUNKLINE_BALANCER_MODE cannot be set: use balancer.mode" }}{{ end -}}
{{- /* A number from a file is a float, and a large one would be written as 1.07e+09. */ -}}
{{- $whole := and (kindIs "float64" $value) (eq (printf "%.0f" $value | float64) $value) -}}
{{- $_ := set $made $name (ternary (printf "%.0f" (float64 $value)) (toString $value) $whole) -}}
{{- end -}}
{{- toYaml $made }}
{{- end }}

{{- define "trunkline.pod-security" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "trunkline.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Probes of a part of ours: the port's name */}}
{{- define "trunkline.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: {{ . }}
  periodSeconds: 1
  failureThreshold: 60
# Alive, not healthy: a node whose bus is away still serves its clients.
livenessProbe:
  httpGet:
    path: /healthz
    port: {{ . }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /ready
    port: {{ . }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{- define "ganesh.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "ganesh.fullname" -}}
{{- $name := include "ganesh.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "ganesh.serviceAccountName" -}}
{{- default (include "ganesh.fullname" .) .Values.serviceAccount.name -}}
{{- end }}

{{/* The labels that never change: selectors keep them. */}}
{{- define "ganesh.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ganesh.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ganesh.labels" -}}
{{ include "ganesh.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "ganesh.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{/* The restricted Pod Security Standard. */}}
{{- define "ganesh.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "ganesh.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* A value of `config` as text: Helm reads each number as a float. */}}
{{- define "ganesh.text" -}}
{{- if kindIs "float64" . -}}{{ printf "%.0f" . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end }}

{{/* Settings that are not secret, with those that the chart decides. */}}
{{- define "ganesh.config" -}}
GANESH_HTTP_ADDR: {{ ternary (printf "%s:8080" .Values.listenAddress) "off" .Values.service.enabled | quote }}
GANESH_ADMIN_ADDR: {{ printf "%s:9464" .Values.listenAddress | quote }}
GANESH_SHUTDOWN_GRACE: {{ printf "%.0fs" (float64 .Values.shutdownGraceSeconds) }}
GANESH_MIGRATE_ON_START: "false"
{{- $ours := dict "GANESH_HTTP_ADDR" "service.enabled" "GANESH_ADMIN_ADDR" "listenAddress" "GANESH_SHUTDOWN_GRACE" "shutdownGraceSeconds" "GANESH_MIGRATE_ON_START" "migrations.enabled" }}
{{- range $name, $value := .Values.config }}
{{- if hasKey $ours $name }}
{{- fail (printf "config.%s: the chart sets it: expected the value %s" $name (get $ours $name)) }}
{{- end }}
{{- if hasKey $.Values.secrets $name }}
{{- fail (printf "config.%s and secrets.%s are both set: expected one of them" $name $name) }}
{{- end }}
{{- if or (regexMatch "://[^/@]*@" (toString $value)) (regexMatch "_(TOKEN|PASSWORD)$" $name) }}
{{- fail (printf "config.%s holds a secret, and a ConfigMap is no place for one: put the value into a Secret, and name that in secrets.%s" $name $name) }}
{{- end }}
{{ $name }}: {{ include "ganesh.text" $value | quote }}
{{- end }}
{{- end }}

{{/* <NAME>_FILE of each secret of a map, mounted by ganesh.secretVolume. */}}
{{- define "ganesh.secretEnv" -}}
{{- range $name, $_ := . -}}
- name: {{ $name }}_FILE
  value: /run/secrets/ganesh/{{ $name }}
{{ end -}}
{{- end }}

{{- define "ganesh.secretVolume" -}}
- name: secrets
  projected:
    # 0440, for the group of the pod.
    defaultMode: 288
    sources:
      {{- range $name, $secret := . }}
      - secret:
          name: {{ $secret.name }}
          items:
            - key: {{ $secret.key }}
              path: {{ $name }}
      {{- end }}
{{- end }}

{{/*
The replicas that are wanted, as PromQL: what comes in, plus the backlog over the time in which it should be gone, over
what one replica stores. What comes in is what is settled plus what the backlog grows by. No value, and so no change,
while no replica reaches NATS or Postgres, while Postgres rejects rows, and while series are missing.
*/}}
{{- define "ganesh.replicasWanted" -}}
{{- $scaling := .Values.autoscaling -}}
{{- $series := default (printf "job=\"%s\",namespace=\"%s\"" .Values.monitoring.job .Release.Namespace) $scaling.prometheus.selector -}}
clamp_min(
  (
    sum(rate(ganesh_messages_settled_total{ {{- $series -}} ,outcome!="released"}[2m]))
    + avg(
      deriv(ganesh_consumer_pending_messages{ {{- $series -}} }[2m])
      + deriv(ganesh_consumer_ack_pending_messages{ {{- $series -}} }[2m])
    )
    + max(
      ganesh_consumer_pending_messages{ {{- $series -}} }
      + ganesh_consumer_ack_pending_messages{ {{- $series -}} }
    ) / {{ $scaling.drainSeconds }}
  ) / {{ printf "%.0f" (float64 $scaling.replicaRate) }},
  0
)
and on () min(max by (dependency) (ganesh_dependency_up{ {{- $series -}} ,dependency=~"nats|postgres"})) == 1
and on () max(ganesh_rejection_pause{ {{- $series -}} }) == 0
{{- end }}

{{/* Up after a minute, as a spike is no load. Down when no wish of the last drainSeconds was higher: the backlog is gone then. */}}
{{- define "ganesh.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 60
  selectPolicy: Max
  policies:
    - type: Percent
      value: 100
      periodSeconds: 60
    - type: Pods
      value: 2
      periodSeconds: 60
scaleDown:
  stabilizationWindowSeconds: {{ add .Values.autoscaling.drainSeconds 120 }}
  selectPolicy: Max
  policies:
    - type: Pods
      value: 1
      periodSeconds: 60
{{- end }}

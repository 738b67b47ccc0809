{{- define "causality.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "causality.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "causality.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "causality.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The labels that select the pods of a role; of all roles where there is none. */}}
{{- define "causality.selector" -}}
app.kubernetes.io/name: {{ include "causality.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .role }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "causality.labels" -}}
{{ include "causality.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: causality
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "causality.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* A value as the text of an environment variable. Helm reads whole numbers as floats and would print 1e+06. */}}
{{- define "causality.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{/* The value of a setting for a role, empty without one: what the role says comes before what all say. */}}
{{- define "causality.setting" -}}
{{- $own := (get .root.Values .role | default dict).settings | default dict }}
{{- if hasKey $own .name }}{{ include "causality.text" (get $own .name) }}
{{- else if hasKey .root.Values.settings .name }}{{ include "causality.text" (get .root.Values.settings .name) }}
{{- end }}
{{- end }}

{{/* Whether a role opens the store: the gateway for API keys, the sink for audit records of what it removes. */}}
{{- define "causality.opensStore" -}}
{{- if has .role (list "reaction" "migrate") }}yes
{{- else if eq .role "gateway" }}
{{- if ne (include "causality.setting" (dict "root" .root "role" "gateway" "name" "AUTH_ENABLED")) "false" }}yes{{ end }}
{{- else if include "causality.setting" (dict "root" .root "role" "sink" "name" "WAREHOUSE_RETENTION") }}yes
{{- end }}
{{- end }}

{{/* Whether a role reads a setting or a credential. */}}
{{- define "causality.reads" -}}
{{- if hasPrefix "DATABASE_" .name }}{{ include "causality.opensStore" . }}
{{- else if hasPrefix "LOG_" .name }}yes
{{- else if eq .role "migrate" }}
{{- else if regexMatch "^(S3|WAREHOUSE|BATCH|PARQUET|DELTA|HIVE|COMPACTION|VACUUM)_" .name }}{{ if eq .role "sink" }}yes{{ end }}
{{- else if has .name (list "ADMIN_TOKEN" "SECRETS_KEY") }}{{ if eq .role "reaction" }}yes{{ end }}
{{- else }}yes
{{- end }}
{{- end }}

{{/* The settings of a role, as a YAML map of texts. */}}
{{- define "causality.settings" -}}
{{- $found := dict }}
{{- $own := (get .root.Values .role | default dict).settings | default dict }}
{{- range $name, $value := merge (dict) $own .root.Values.settings }}
{{- if include "causality.reads" (dict "root" $.root "role" $.role "name" $name) }}
{{- $_ := set $found $name (include "causality.text" $value) }}
{{- end }}
{{- end }}
{{- if ne .role "migrate" }}
{{- $drain := (get .root.Values .role).drain }}
{{- $_ := set $found "ADMIN_ADDR" ":9090" }}
{{- $_ := set $found "SHUTDOWN_DELAY" (printf "%ds" (int64 $drain.delaySeconds)) }}
{{- $_ := set $found "SHUTDOWN_TIMEOUT" (printf "%ds" (int64 $drain.timeoutSeconds)) }}
{{- if eq .role "gateway" }}{{ $_ := set $found "HTTP_ADDR" ":8080" }}{{ end }}
{{- if eq .role "sink" }}{{ $_ := set $found "DATA_DIR" "/data" }}{{ end }}
{{- if and (eq .role "gateway") .root.Values.gateway.tls.secretName }}
{{- $_ := set $found "TLS_CERT_FILE" "/etc/causality/tls/tls.crt" }}
{{- $_ := set $found "TLS_KEY_FILE" "/etc/causality/tls/tls.key" }}
{{- end }}
{{- if .root.Values.adminTls.secretName }}
{{- $_ := set $found "ADMIN_TLS_CERT_FILE" "/etc/causality/admin-tls/tls.crt" }}
{{- $_ := set $found "ADMIN_TLS_KEY_FILE" "/etc/causality/admin-tls/tls.key" }}
{{- end }}
{{- /* What no role reads must not wait for it: the stream would fill. */}}
{{- if not (or .root.Values.reaction.enabled (hasKey $found "NATS_STREAM_READERS")) }}
{{- $_ := set $found "NATS_STREAM_READERS" "sink" }}
{{- end }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{/* Where a credential is: the name and the key of a Secret; nothing if it is not given. */}}
{{- define "causality.credential" -}}
{{- $given := .root.Values.credentials }}
{{- if hasKey $given.from .name }}
{{- toYaml (get $given.from .name) }}
{{- else if and $given.existingSecret.name (has .name $given.existingSecret.keys) }}
{{- toYaml (dict "name" $given.existingSecret.name "key" .name) }}
{{- else if hasKey $given.values .name }}
{{- /* A hook runs before the release has a Secret. */}}
{{- $suffix := ternary "-migrate" "" (eq .role "migrate") }}
{{- toYaml (dict "name" (printf "%s%s" (include "causality.fullname" .root) $suffix) "key" .name) }}
{{- end }}
{{- end }}

{{/* The names of credentials. */}}
{{- define "causality.credentialNames" -}}
ADMIN_TOKEN METRICS_TOKEN SECRETS_KEY DATABASE_PASSWORD DATABASE_URL NATS_URL S3_ACCESS_KEY_ID S3_SECRET_ACCESS_KEY
{{- end }}

{{/* The credentials of a role, as entries of env. */}}
{{- define "causality.credentials" -}}
{{- range $name := splitList " " (include "causality.credentialNames" .) }}
{{- $at := include "causality.credential" (dict "root" $.root "role" $.role "name" $name) }}
{{- if and $at (include "causality.reads" (dict "root" $.root "role" $.role "name" $name)) }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      {{- $at | nindent 6 }}
{{- end }}
{{- end }}
{{- end }}

{{/* "yes" if the setting or the credential is given to the role. */}}
{{- define "causality.has" -}}
{{- if or (include "causality.setting" .) (include "causality.credential" .) }}yes{{ end }}
{{- end }}

{{/* Refuses values with which the pods would not start, or would lose events; all of them in one message. */}}
{{- define "causality.validate" -}}
{{- $wrong := list }}
{{- $roles := list }}
{{- range $role := list "gateway" "sink" "reaction" }}
{{- if (get $.Values $role).enabled }}{{ $roles = append $roles $role }}{{ end }}
{{- end }}
{{- range $role := $roles }}
{{- $of := dict "root" $ "role" $role }}
{{- if not (include "causality.has" (merge (dict "name" "NATS_URL") $of)) }}
{{- $wrong = append $wrong (printf "%s: settings.NATS_URL or the credential NATS_URL is missing" $role) }}
{{- end }}
{{- if and (include "causality.opensStore" $of) (not (or (include "causality.has" (merge (dict "name" "DATABASE_HOST") $of)) (include "causality.has" (merge (dict "name" "DATABASE_URL") $of)))) (ne $role "sink") }}
{{- $wrong = append $wrong (printf "%s: settings.DATABASE_HOST or the credential DATABASE_URL is missing" $role) }}
{{- end }}
{{- end }}
{{- if .Values.sink.enabled }}
{{- $url := include "causality.setting" (dict "root" . "role" "sink" "name" "WAREHOUSE_URL") }}
{{- if hasPrefix "file:" $url }}
{{- $wrong = append $wrong "sink: WAREHOUSE_URL must be an object store: a directory of a pod is gone with it" }}
{{- else if not (or $url (include "causality.setting" (dict "root" . "role" "sink" "name" "S3_BUCKET"))) }}
{{- $wrong = append $wrong "sink: settings.S3_BUCKET or settings.WAREHOUSE_URL is missing" }}
{{- end }}
{{- end }}
{{- if and .Values.reaction.enabled (not (include "causality.credential" (dict "root" . "role" "reaction" "name" "SECRETS_KEY"))) }}
{{- $wrong = append $wrong "reaction: the credential SECRETS_KEY is missing, without which no webhook can have a secret" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not (include "causality.credential" (dict "root" . "role" "gateway" "name" "METRICS_TOKEN"))) (ne (include "causality.text" (get .Values.settings "METRICS_OPEN" | default false)) "true") }}
{{- $wrong = append $wrong "serviceMonitor: the credential METRICS_TOKEN is missing, or settings.METRICS_OPEN" }}
{{- end }}
{{- if $wrong }}
{{- fail (printf "\n  %s\n" (join "\n  " $wrong)) }}
{{- end }}
{{- end }}

{{- define "causality.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "causality.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* A probe of a path on the port that the role is probed on. */}}
{{- define "causality.probe" -}}
{{- $gateway := eq .role "gateway" }}
{{- $tls := ternary .root.Values.gateway.tls.secretName .root.Values.adminTls.secretName $gateway -}}
httpGet: {path: {{ .path }}, port: {{ ternary "http" "admin" $gateway }}, scheme: {{ ternary "HTTPS" "HTTP" (not (empty $tls)) }}}
timeoutSeconds: 3
{{- end }}

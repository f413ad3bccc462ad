CREATE TABLE "accounts" (
	"id" text PRIMARY KEY NOT NULL,
	"name" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"requests_per_minute" integer,
	"max_running_jobs" integer,
	"max_queued_jobs" integer,
	"prepaid" boolean DEFAULT false NOT NULL,
	CONSTRAINT "accounts_name_unique" UNIQUE("name")
);
--> statement-breakpoint
CREATE TABLE "jobs" (
	"id" text PRIMARY KEY NOT NULL,
	"account_id" text NOT NULL,
	"state" text NOT NULL,
	"route" text NOT NULL,
	"synchronous" boolean NOT NULL,
	"queue" text NOT NULL,
	"task" jsonb,
	"log_prompt" boolean NOT NULL,
	"not_applied" jsonb NOT NULL,
	"images" integer NOT NULL,
	"price_micros" bigint NOT NULL,
	"idempotency_key" text,
	"body_hash" "bytea",
	"turn" integer NOT NULL,
	"attempt" integer DEFAULT 0 NOT NULL,
	"crashes" integer DEFAULT 0 NOT NULL,
	"losses" integer DEFAULT 0 NOT NULL,
	"step" integer DEFAULT 0 NOT NULL,
	"steps" integer NOT NULL,
	"result" jsonb,
	"error" jsonb,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"started_at" timestamp with time zone,
	"ended_at" timestamp with time zone,
	"expires_at" timestamp with time zone
);
--> statement-breakpoint
CREATE TABLE "ledger_closings" (
	"account_id" text NOT NULL,
	"through_id" bigint NOT NULL,
	"balance_micros" bigint NOT NULL,
	"held_micros" bigint NOT NULL,
	"spent_micros" bigint NOT NULL,
	CONSTRAINT "ledger_closings_account_id_through_id_pk" PRIMARY KEY("account_id","through_id")
);
--> statement-breakpoint
CREATE TABLE "ledger_entries" (
	"id" bigserial PRIMARY KEY NOT NULL,
	"account_id" text NOT NULL,
	"type" text NOT NULL,
	"amount_micros" bigint NOT NULL,
	"held_micros" bigint NOT NULL,
	"spent_micros" bigint NOT NULL,
	"subject_kind" text NOT NULL,
	"subject_id" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "ledger_movement" CHECK (case "ledger_entries"."type"
        when 'credit' then "ledger_entries"."amount_micros" > 0 and "ledger_entries"."held_micros" = 0 and "ledger_entries"."spent_micros" = 0
        when 'hold' then "ledger_entries"."amount_micros" <= 0 and "ledger_entries"."held_micros" = -"ledger_entries"."amount_micros" and "ledger_entries"."spent_micros" = 0
        when 'capture' then "ledger_entries"."amount_micros" = 0 and "ledger_entries"."spent_micros" >= 0 and "ledger_entries"."held_micros" = -"ledger_entries"."spent_micros"
        when 'release' then "ledger_entries"."amount_micros" >= 0 and "ledger_entries"."held_micros" = -"ledger_entries"."amount_micros" and "ledger_entries"."spent_micros" = 0
        else false
      end)
);
--> statement-breakpoint
CREATE TABLE "previews" (
	"job_id" text PRIMARY KEY NOT NULL,
	"step" integer NOT NULL,
	"jpeg" "bytea" NOT NULL
);
--> statement-breakpoint
CREATE TABLE "request_counts" (
	"account_id" text NOT NULL,
	"minute" timestamp with time zone NOT NULL,
	"count" integer NOT NULL,
	CONSTRAINT "request_counts_account_id_minute_pk" PRIMARY KEY("account_id","minute")
);
--> statement-breakpoint
CREATE TABLE "tokens" (
	"id" text PRIMARY KEY NOT NULL,
	"account_id" text NOT NULL,
	"name" text NOT NULL,
	"hash" "bytea" NOT NULL,
	"prefix" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"revoked_at" timestamp with time zone,
	CONSTRAINT "tokens_hash_unique" UNIQUE("hash")
);
--> statement-breakpoint
ALTER TABLE "jobs" ADD CONSTRAINT "jobs_account_id_accounts_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."accounts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "ledger_closings" ADD CONSTRAINT "ledger_closings_account_id_accounts_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."accounts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "ledger_entries" ADD CONSTRAINT "ledger_entries_account_id_accounts_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."accounts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "previews" ADD CONSTRAINT "previews_job_id_jobs_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "request_counts" ADD CONSTRAINT "request_counts_account_id_accounts_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."accounts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "tokens" ADD CONSTRAINT "tokens_account_id_accounts_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."accounts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "jobs_idempotency" ON "jobs" USING btree ("account_id","idempotency_key");--> statement-breakpoint
CREATE INDEX "jobs_account" ON "jobs" USING btree ("account_id","created_at");--> statement-breakpoint
CREATE INDEX "jobs_outstanding" ON "jobs" USING btree ("state","queue","turn","created_at");--> statement-breakpoint
CREATE INDEX "jobs_expiry" ON "jobs" USING btree ("expires_at");--> statement-breakpoint
CREATE UNIQUE INDEX "ledger_once" ON "ledger_entries" USING btree ("subject_kind","subject_id","type");--> statement-breakpoint
CREATE UNIQUE INDEX "ledger_settled_once" ON "ledger_entries" USING btree ("subject_kind","subject_id") WHERE "ledger_entries"."type" in ('capture', 'release');--> statement-breakpoint
CREATE INDEX "ledger_account" ON "ledger_entries" USING btree ("account_id","id");--> statement-breakpoint
CREATE INDEX "ledger_time" ON "ledger_entries" USING btree ("account_id","created_at");--> statement-breakpoint
CREATE INDEX "tokens_account" ON "tokens" USING btree ("account_id");
CREATE TABLE "asset_blobs" (
	"hash" text PRIMARY KEY NOT NULL,
	"key" text NOT NULL,
	"size_bytes" bigint NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "asset_blobs_key_unique" UNIQUE("key")
);
--> statement-breakpoint
CREATE TABLE "assets" (
	"id" text PRIMARY KEY NOT NULL,
	"account_id" text NOT NULL,
	"name" text NOT NULL,
	"description" text DEFAULT '' NOT NULL,
	"type" text NOT NULL,
	"data" jsonb NOT NULL,
	"is_public" boolean DEFAULT false NOT NULL,
	"status" text NOT NULL,
	"status_details" text DEFAULT '' NOT NULL,
	"url" text,
	"hf_repo" text,
	"size_bytes" bigint DEFAULT 0 NOT NULL,
	"upload_key" text,
	"upload_hash" text,
	"hash" text,
	"report" jsonb,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	"ready_at" timestamp with time zone,
	"expires_at" timestamp with time zone,
	"deleted_at" timestamp with time zone,
	CONSTRAINT "assets_upload_key_unique" UNIQUE("upload_key")
);
--> statement-breakpoint
CREATE TABLE "job_assets" (
	"job_id" text NOT NULL,
	"hash" text NOT NULL,
	CONSTRAINT "job_assets_job_id_hash_pk" PRIMARY KEY("job_id","hash")
);
--> statement-breakpoint
CREATE TABLE "secrets" (
	"name" text PRIMARY KEY NOT NULL,
	"value" "bytea" NOT NULL
);
--> statement-breakpoint
CREATE TABLE "upload_parts" (
	"asset_id" text NOT NULL,
	"upload_id" text NOT NULL,
	"number" integer NOT NULL,
	"key" text NOT NULL,
	"size_bytes" bigint NOT NULL,
	"etag" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "upload_parts_upload_id_number_pk" PRIMARY KEY("upload_id","number")
);
--> statement-breakpoint
ALTER TABLE "assets" ADD CONSTRAINT "assets_account_id_accounts_id_fk" FOREIGN KEY ("account_id") REFERENCES "public"."accounts"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "assets" ADD CONSTRAINT "assets_hash_asset_blobs_hash_fk" FOREIGN KEY ("hash") REFERENCES "public"."asset_blobs"("hash") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job_assets" ADD CONSTRAINT "job_assets_job_id_jobs_id_fk" FOREIGN KEY ("job_id") REFERENCES "public"."jobs"("id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "job_assets" ADD CONSTRAINT "job_assets_hash_asset_blobs_hash_fk" FOREIGN KEY ("hash") REFERENCES "public"."asset_blobs"("hash") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
ALTER TABLE "upload_parts" ADD CONSTRAINT "upload_parts_asset_id_assets_id_fk" FOREIGN KEY ("asset_id") REFERENCES "public"."assets"("id") ON DELETE no action ON UPDATE no action;--> statement-breakpoint
CREATE UNIQUE INDEX "assets_name" ON "assets" USING btree ("account_id","name") WHERE "assets"."deleted_at" is null;--> statement-breakpoint
CREATE INDEX "assets_account" ON "assets" USING btree ("account_id","created_at");--> statement-breakpoint
CREATE INDEX "assets_hash" ON "assets" USING btree ("hash");--> statement-breakpoint
CREATE INDEX "assets_expiry" ON "assets" USING btree ("expires_at");--> statement-breakpoint
CREATE INDEX "job_assets_hash" ON "job_assets" USING btree ("hash");--> statement-breakpoint
CREATE INDEX "upload_parts_asset" ON "upload_parts" USING btree ("asset_id");
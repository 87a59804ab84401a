//! The service's error codes and what each means to us (dataverse §7).
//!
//! Codes come as hexadecimal text of any case and as signed decimals; both are the same 32 bits.

use std::time::Duration;

use crate::http::{Facet, RefusalVerdict};

/// How long a throttled service is left alone when it does not say (dataverse §6.3).
pub const THROTTLE_WAIT: Duration = Duration::from_secs(30);

/// How long a disabled environment is left alone (dataverse §7: at least 5 minutes).
pub const DISABLED_WAIT: Duration = Duration::from_secs(5 * 60);

/// The row does not exist; the message says of which table.
pub const OBJECT_DOES_NOT_EXIST: u32 = 0x8004_0217;
/// No row has this key.
pub const NOT_FOUND_BY_KEY: u32 = 0x8006_0891;
/// The application user lacks a privilege, which the message names.
pub const PRIVILEGE_DENIED: u32 = 0x8004_0220;
/// The URL names something that this environment does not have, or is malformed.
pub const BAD_URL: u32 = 0x8006_0888;
/// The key columns are no defined key.
pub const KEY_NOT_DEFINED: u32 = 0x8006_0890;

/// Whom a lasting refusal concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// What the verdict says.
    Verdict,
    /// One row, when a write meets it: a plug-in that crashes on one lead must not stop the others.
    Row,
}

/// One documented code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownCode {
    /// The 32 bits.
    pub code: u32,
    /// The documented name, or a word of ours where none is documented.
    pub name: &'static str,
    /// What to do.
    pub verdict: RefusalVerdict,
    /// Whom it concerns in the end.
    pub reach: Reach,
    /// The environment has another schema than we think: read it again.
    pub is_schema_stale: bool,
    /// What it means, for people; empty when the name says it.
    pub meaning: &'static str,
}

/// Finds a code in the table.
pub fn find(code: u32) -> Option<&'static KnownCode> {
    KNOWN.iter().find(|known| known.code == code)
}

/// Finds a code as an error carries it.
pub fn find_text(code: &str) -> Option<&'static KnownCode> {
    parse(code).and_then(find)
}

/// Reads `0x80040217`, `0X8005F103` and `-2147220969`. `None` for anything else, and for zero.
pub fn parse(text: &str) -> Option<u32> {
    let text = text.trim();
    let code = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with('+') => u32::from_str_radix(digits, 16).ok()?,
        Some(_) => return None,
        None => {
            let number: i64 = text.parse().ok()?;
            let signed = i32::try_from(number).ok().map(i32::cast_unsigned);
            signed.or_else(|| u32::try_from(number).ok())?
        }
    };
    (code != 0).then_some(code)
}

/// The one spelling we print.
pub fn print(code: u32) -> String {
    format!("{code:#010x}")
}

const fn known(code: u32, name: &'static str, verdict: RefusalVerdict, meaning: &'static str) -> KnownCode {
    KnownCode { code, name, verdict, reach: Reach::Verdict, is_schema_stale: false, meaning }
}

impl KnownCode {
    const fn row(mut self) -> KnownCode {
        self.reach = Reach::Row;
        self
    }

    const fn stale(mut self) -> KnownCode {
        self.is_schema_stale = true;
        self
    }
}

const fn throttled(facet: Facet) -> RefusalVerdict {
    RefusalVerdict::Throttled { default_wait: THROTTLE_WAIT, facet }
}

const THROTTLED: RefusalVerdict = throttled(Facet::Unknown);

const ACCESS: &str = "access to the row was denied: give the application user's security role organization depth";
const OWNER: &str =
    "the owner cannot own leads: check that the user or team is enabled and has a role that reads leads";
const USER: &str =
    "the application user is missing, disabled, or has no security role: enable it in the Power Platform admin center";
const KEY: &str = "the alternate key is missing or not active: run `referrald schema check`";
const PLUGIN_CRASH: &str = "a plug-in of this environment failed: look at its plug-in trace log";
const SANDBOX: &str = "a plug-in of this environment did not answer in time";
const BUSY: &str = "another customization operation is running";
const TOO_LONG: &str = "a text is longer than the environment allows";
const CLOSED_ROW: &str = "the lead is closed and cannot be written";
const TABLE: &str = "the environment lacks a table that a lead connector needs: is Dynamics 365 Sales installed";

/// The table of dataverse §7.
///
/// | disposition there | verdict here |
/// |---|---|
/// | R | `Throttled`, `Closed` or `Again` |
/// | R a few times, then P | `Again`, and for a write in the end a refusal of that row |
/// | P | `Refused` |
/// | C | `Unauthorized`; `Refused` where one row or one setting is meant |
/// | I | `Conflict` or `Missing` |
pub const KNOWN: &[KnownCode] = &[
    known(OBJECT_DOES_NOT_EXIST, "ObjectDoesNotExist", RefusalVerdict::Missing, ""),
    known(NOT_FOUND_BY_KEY, "RecordNotFoundByEntityKey", RefusalVerdict::Missing, ""),
    known(0x8004_0237, "DuplicateRecord", RefusalVerdict::Conflict, "the row exists already"),
    known(
        0x8006_0892,
        "DuplicateRecordEntityKey",
        RefusalVerdict::Conflict,
        "another row owns this alternate key value",
    ),
    known(
        0x8007_3002,
        "CrmSQLUniqueIndexOrConstraintViolation",
        RefusalVerdict::Refused,
        "a unique constraint of this environment forbids it",
    ),
    known(0x8006_089d, "MultipleRecordsFoundByEntityKey", RefusalVerdict::Unauthorized, KEY),
    known(KEY_NOT_DEFINED, "EntityKeyNotDefined", RefusalVerdict::Unauthorized, KEY),
    known(
        0x8004_0333,
        "DuplicateRecordsFound",
        RefusalVerdict::Refused,
        "a duplicate-detection rule of this environment forbids it",
    ),
    known(0x8006_0882, "ConcurrencyVersionMismatch", RefusalVerdict::Conflict, "the lead changed in the meantime"),
    known(0x8006_0883, "ConcurrencyVersionNotProvided", RefusalVerdict::Unauthorized, "the service missed the version"),
    known(
        0x8006_088d,
        "OptimisticConcurrencyNotEnabled",
        RefusalVerdict::Unauthorized,
        "optimistic concurrency is off for the lead table: an administrator must switch it on",
    ),
    known(
        PRIVILEGE_DENIED,
        "PrivilegeDenied",
        RefusalVerdict::Unauthorized,
        "the application user lacks a privilege: compare its security role with `referrald schema role`",
    ),
    known(0x8004_8306, "AccessDenied", RefusalVerdict::Unauthorized, ACCESS).row(),
    known(0x8004_8405, "AccessDeniedToRow", RefusalVerdict::Unauthorized, ACCESS).row(),
    known(0x8004_0256, "AccessCheckFailed", RefusalVerdict::Unauthorized, ACCESS).row(),
    known(0x8004_020d, "SharingDenied", RefusalVerdict::Unauthorized, ACCESS).row(),
    known(0x8004_0231, "PrincipalPrivilegeDenied", RefusalVerdict::Refused, OWNER),
    known(0x8004_022b, "OwnerDisabled", RefusalVerdict::Refused, OWNER),
    known(0x8004_0229, "InvalidOwner", RefusalVerdict::Refused, OWNER),
    known(0x8004_0225, "UserDisabled", RefusalVerdict::Unauthorized, USER),
    known(0x8007_2560, "UserNotMember", RefusalVerdict::Unauthorized, USER),
    known(0x8004_2f09, "UserWithoutRoles", RefusalVerdict::Unauthorized, USER),
    known(0x8004_d24b, "UserWithoutLicence", RefusalVerdict::Unauthorized, USER),
    known(
        0x8004_a104,
        "OrganizationDisabled",
        RefusalVerdict::Closed { wait_min: DISABLED_WAIT },
        "the environment is disabled or in administration mode: an administrator must open it in the Power Platform admin center",
    ),
    known(0x8005_f101, "AccessTokenExpired", RefusalVerdict::TokenRefused, ""),
    known(0x8004_4331, "StringLengthTooLong", RefusalVerdict::Refused, TOO_LONG).stale(),
    known(0x8007_3001, "StringLengthTooLong", RefusalVerdict::Refused, TOO_LONG).stale(),
    known(0x8004_432f, "IntegerOutOfRange", RefusalVerdict::Refused, "a whole number is out of range"),
    known(0x8004_4330, "DecimalOutOfRange", RefusalVerdict::Refused, "a decimal number is out of range"),
    known(
        0x8004_431a,
        "PicklistValueOutOfRange",
        RefusalVerdict::Refused,
        "the environment does not have this option of a choice",
    )
    .stale(),
    known(
        0x8004_8408,
        "InvalidStateCodeStatusCode",
        RefusalVerdict::Refused,
        "the status code does not belong to the state: check the status codes in the configuration",
    )
    .stale(),
    known(0x8004_f00e, "InvalidStateTransition", RefusalVerdict::Refused, CLOSED_ROW),
    known(0x8004_0519, "LeadAlreadyInClosedState", RefusalVerdict::Refused, CLOSED_ROW),
    known(0x8004_0518, "LeadAlreadyInOpenState", RefusalVerdict::Refused, "the lead is open already"),
    known(0x8004_0230, "CannotUpdateObjectBecauseItIsInactive", RefusalVerdict::Refused, CLOSED_ROW),
    known(0x8004_022e, "CannotUpdateBecauseItIsReadOnly", RefusalVerdict::Refused, CLOSED_ROW),
    known(0x8004_8cfb, "CurrencyRequired", RefusalVerdict::Refused, "an amount came without a currency"),
    known(0x8004_8cfc, "InvalidCurrency", RefusalVerdict::Refused, "the currency cannot be used").stale(),
    known(0x8004_8d19, "PayloadError", RefusalVerdict::Refused, "the service could not read what was sent").stale(),
    known(BAD_URL, "ODataError", RefusalVerdict::Refused, "the environment lacks something the request names").stale(),
    known(0x8004_1102, "NoSuchTable", RefusalVerdict::Unauthorized, TABLE).stale(),
    known(0x8004_1103, "NoSuchColumn", RefusalVerdict::Refused, "the environment lacks a column").stale(),
    known(0x8005_e009, "NoSuchMetadata", RefusalVerdict::Unauthorized, TABLE).stale(),
    known(0x8004_024a, "NoSuchMetadata", RefusalVerdict::Unauthorized, TABLE).stale(),
    known(0x8004_4183, "InvalidQuery", RefusalVerdict::Refused, ""),
    known(0x8004_0203, "InvalidArgument", RefusalVerdict::Refused, ""),
    known(0x8004_4352, "ExpiredVersionStamp", RefusalVerdict::Refused, "the change token is too old"),
    known(
        0x8007_2491,
        "ChangeTrackingNotEnabledForEntity",
        RefusalVerdict::Unauthorized,
        "change tracking is off for the lead table",
    ),
    known(
        0x8004_0265,
        "IsvAborted",
        RefusalVerdict::Refused,
        "a plug-in of this environment refused it: look at its plug-in trace log",
    ),
    known(0x8004_0224, "IsvUnExpected", RefusalVerdict::Again, PLUGIN_CRASH).row(),
    known(0x8004_0216, "UnExpected", RefusalVerdict::Again, "the service failed on this row").row(),
    known(0x8004_4150, "SqlGeneric", RefusalVerdict::Again, ""),
    known(0x8004_4151, "SqlTimeout", RefusalVerdict::Again, ""),
    known(0x8007_3000, "SqlNetwork", RefusalVerdict::Again, ""),
    known(0x8004_0255, "TransactionAborted", RefusalVerdict::Again, ""),
    known(0x8007_2321, "ExecutionTimeExceeded", throttled(Facet::Execution), ""),
    known(0x8007_2322, "RequestCountExceeded", throttled(Facet::Requests), ""),
    known(0x8007_2326, "ConcurrencyExceeded", throttled(Facet::Concurrency), ""),
    known(0x8007_2323, "DatabaseThrottled", THROTTLED, ""),
    known(0x8007_2324, "DatabaseThrottled", THROTTLED, ""),
    known(0x8005_f103, "WorkerThrottled", THROTTLED, ""),
    known(0x8006_0308, "WorkerThrottled", THROTTLED, ""),
    known(
        0x8007_2325,
        "StorageQuotaExceeded",
        RefusalVerdict::Unauthorized,
        "the environment's storage is full: an administrator must free or buy some",
    ),
    known(0x8004_418d, "SandboxUnavailable", RefusalVerdict::Again, SANDBOX).row(),
    known(0x8004_418e, "SandboxUnavailable", RefusalVerdict::Again, SANDBOX).row(),
    known(0x8008_1116, "SandboxThrottled", RefusalVerdict::Again, SANDBOX).row(),
    known(0x8004_4171, "SandboxTimeout", RefusalVerdict::Again, SANDBOX).row(),
    known(0x8004_4172, "SandboxTimeout", RefusalVerdict::Again, SANDBOX).row(),
    known(0x8004_4173, "SandboxTimeout", RefusalVerdict::Again, SANDBOX).row(),
    known(0x8008_1111, "SandboxThrottled", RefusalVerdict::Again, SANDBOX).row(),
    // Whoever writes to the schema waits longer than a call does (dataverse §3.5).
    known(0x8007_1151, "SolutionOperationRunning", RefusalVerdict::Conflict, BUSY),
    known(0x8004_ed47, "AppLockTimeout", RefusalVerdict::Conflict, BUSY),
    known(0x8004_7013, "ColumnExists", RefusalVerdict::Conflict, "the column exists already"),
    known(0x8006_0304, "ColumnExists", RefusalVerdict::Conflict, "the column exists already"),
    known(0x8006_0893, "KeyNameExists", RefusalVerdict::Conflict, "a key of this name exists already"),
    known(0x8006_0894, "KeyColumnsExist", RefusalVerdict::Conflict, "a key of these columns exists already"),
    known(0x8006_088f, "InvalidKeyOperation", RefusalVerdict::Refused, "the key operation is not possible"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn hexadecimal_of_any_case_and_signed_decimals_are_one_number() {
        let same = ["0x80072322", "0X80072322", " 0x80072322 ", "-2147015902", "2147951394"];
        for text in same {
            assert_eq!(parse(text), Some(0x8007_2322), "{text}");
        }
        assert_eq!(parse("0x8005F103"), parse("0x8005f103"));
        assert_eq!(parse("-2147204784"), Some(0x8004_4150));
        for none in ["", "0x0", "0", "0x", "0x+1", "none", "99999999999999999999", "-99999999999", "0xfffffffff"] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn a_code_stands_in_the_table_once() {
        let codes: BTreeSet<u32> = KNOWN.iter().map(|known| known.code).collect();
        assert_eq!(codes.len(), KNOWN.len());
    }

    #[test]
    fn a_code_is_printed_as_the_service_documents_it() {
        assert_eq!(print(0x8004_0217), "0x80040217");
    }

    #[test]
    fn the_published_table_is_followed_code_by_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/reference/dataverse.md");
        let Ok(sheet) = std::fs::read_to_string(path) else {
            println!("skipped: the fact sheet is not at hand");
            return;
        };
        let table = sheet.split("## 7. Errors").nth(1).and_then(|rest| rest.split("## 8.").next()).unwrap_or_default();
        let mut seen = 0;
        for row in table.lines().filter(|line| line.starts_with("| 0x")) {
            let cell = row.split('|').nth(1).unwrap_or_default();
            for code in cell.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.starts_with("0x")) {
                let code = parse(code).unwrap_or_else(|| panic!("{code} is a code"));
                assert!(find(code).is_some(), "{code:#x} has a verdict");
                seen += 1;
            }
        }
        assert!(seen > 50, "the table was read");
    }
}

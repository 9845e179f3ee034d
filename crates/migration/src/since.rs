//! What has become of a table since it was converted.

use crate::facts::{Facts, Table};

/// The facts of before a conversion, of what is there now: the table may have been renamed or restored from
/// a dump, and its partitions and children may have been renamed, dropped, detached or created. What is no
/// part of it any more, is left as it is.
pub fn since(mut before: Facts, now: Facts) -> Facts {
    let old = std::mem::replace(&mut before.relation, now.relation);
    let root = before.tables.iter().find(|table| table.name == old.name).cloned();
    let (mut known, views): (Vec<Table>, Vec<Table>) =
        before.tables.into_iter().partition(|table| table.kind != "v");
    let mut take = |is_it: &dyn Fn(&Table) -> bool| {
        known.iter().position(is_it).map(|place| known.swap_remove(place))
    };
    let is_root = |table: &Table| table.oid == before.relation.oid;
    let mut found = Vec::new();
    // By name, as a restored dump has other numbers; what is left, by number.
    for table in &now.tables {
        let name = if is_root(table) { &old.name } else { &table.name };
        found.push(take(&|known| known.name == *name));
    }
    for (table, found) in now.tables.iter().zip(&mut found) {
        if found.is_none() {
            *found = take(&|known| known.oid == table.oid);
        }
    }
    let mut tables = Vec::new();
    for (table, found) in now.tables.into_iter().zip(found) {
        if let Some(known) = found {
            let was = format!("{}.{}", known.name, known.column);
            for sequence in &mut before.sequences {
                if sequence.owned_by.as_ref() == Some(&was) {
                    sequence.owned_by = Some(format!("{}.{}", table.name, table.column));
                }
            }
            tables.push(Table { name: table.name, oid: table.oid, ..known });
        } else if table.is_converted && table.kind != "v" {
            // Made since, with the default of the table: it gets the one that it would have had.
            let default = root.as_ref().and_then(|root| root.default.clone());
            tables.push(Table { default, is_new: true, is_converted: false, ..table });
        }
    }
    tables.extend(views);
    Facts { tables, default_grantees: now.default_grantees, ..before }
}
